package synth

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/sample"
)

// Case is a series and the truth about it.
type Case struct {
	Spec   Spec
	Series sample.Series
	// Periods that it has, of the waves as they were drawn, strongest first. None: there is no cycle.
	Periods []time.Duration
	// Kind says in a word what it is: a shape, or what noise.
	Kind string
	// Noise is the noise as a share of the strongest wave's amplitude.
	Noise float64
}

// String tells a case from others in a test's output.
func (c Case) String() string {
	return fmt.Sprintf("seed %d %s noise %.0f%% n %d step %s periods %v", c.Spec.Seed, c.Kind, 100*c.Noise, c.Series.Len(), c.Series.Step, c.Periods)
}

// NoiseLevels are those that Cyclic draws from.
func NoiseLevels() []float64 { return []float64{0, 0.1, 0.25, 0.5, 0.75, 1} }

// Set gives 2 n cases with seeds from seed on: with a cycle and without, in turns.
func Set(seed uint64, n int) []Case {
	out := make([]Case, 0, 2*n)
	for i := range uint64(n) {
		out = append(out, Cyclic(seed+i), Acyclic(seed+i))
	}
	return out
}

// steps at which guests are sampled.
func grids() []time.Duration {
	return []time.Duration{time.Second, 5 * time.Second, 15 * time.Second, time.Minute, 5 * time.Minute}
}

func logBetween(r *rand.Rand, lo, hi float64) float64 {
	return math.Exp(math.Log(lo) + r.Float64()*(math.Log(hi)-math.Log(lo)))
}

// Cyclic draws a series with one cycle, or in a third of all cases with two: periods from 10 s to 24 h, 10 to 400 steps long,
// five to sixty of them (the slower one of two: five to sixteen).
func Cyclic(seed uint64) Case {
	r := rand.New(rand.NewPCG(seed, 0xc1c))
	var w Wave
	var step time.Duration
	for step == 0 {
		w.Period = time.Duration(logBetween(r, 10, 86400) * float64(time.Second))
		step = grids()[r.IntN(len(grids()))]
		if per := float64(w.Period) / float64(step); per < 10 || per > 400 {
			step = 0
		}
	}
	w.dress(r)
	s := Spec{Seed: seed, Start: time.Unix(1700000000, 0).UTC(), Step: step, Level: 10, Waves: []Wave{w}}
	s.Samples = int(logBetween(r, 5, 60) * float64(w.Period) / float64(step))
	if r.IntN(3) == 0 {
		s.nest(r)
	}
	noise := NoiseLevels()[r.IntN(len(NoiseLevels()))]
	s.NoiseLevel = noise * s.amplitude()
	if r.IntN(4) == 0 {
		s.Noise, s.Memory = Red, 0.3+0.5*r.Float64()
	}
	s.spoil(r, s.amplitude())
	return s.as(string(w.Shape), noise)
}

// dress draws all of a wave but its period.
func (w *Wave) dress(r *rand.Rand) {
	w.Shape = Shapes()[r.IntN(len(Shapes()))]
	w.Amplitude = 1
	w.Duty = 0.05 + 0.35*r.Float64()
	if w.Shape == Bursts {
		w.Duty = 0.2 + 0.3*r.Float64()
	}
	if r.IntN(2) == 0 {
		w.Jitter = 0.1 * r.Float64()
	}
	if r.IntN(2) == 0 {
		w.Drift = 0.3*r.Float64() - 0.15
	}
}

// nest puts the wave that is there into a slower one, or one of the same strength.
func (s *Spec) nest(r *rand.Rand) {
	ratio := logBetween(r, 3.5, 24)
	if r.IntN(2) == 0 {
		ratio = math.Round(ratio)
	}
	slow := Wave{Period: time.Duration(ratio * float64(s.Waves[0].Period))}
	slow.dress(r)
	slow.Amplitude = logBetween(r, 0.5, 2)
	s.Waves = append(s.Waves, slow)
	if slow.Amplitude > 1 {
		s.Waves[0], s.Waves[1] = s.Waves[1], s.Waves[0]
	}
	s.Samples = int(logBetween(r, 5, 16) * float64(slow.Period) / float64(s.Step))
}

func (s *Spec) amplitude() float64 {
	a := 0.0
	for _, w := range s.Waves {
		a = max(a, w.Amplitude)
	}
	return a
}

// spoil draws a trend and gaps of up to a fifth.
func (s *Spec) spoil(r *rand.Rand, amplitude float64) {
	if r.IntN(2) == 0 {
		s.Trend = amplitude * 4 * (2*r.Float64() - 1)
	}
	gaps := 0.2 * r.Float64()
	switch r.IntN(4) {
	case 0:
		s.Scattered = gaps
	case 1:
		s.Blocks = gaps
	case 2:
		s.Scattered, s.Blocks = gaps/2, gaps/2
	}
}

// as makes the case.
func (s Spec) as(kind string, noise float64) Case {
	series, periods := s.Make()
	return Case{Spec: s, Series: series, Periods: periods, Kind: kind, Noise: noise}
}

// Acyclic draws a series without a cycle, with trends and gaps like the others'. Bursts, steps and ramps come with white noise.
func Acyclic(seed uint64) Case {
	r := rand.New(rand.NewPCG(seed, 0xacc))
	kind := Noises()[r.IntN(len(Noises()))]
	s := Spec{Seed: seed, Start: time.Unix(1700000000, 0).UTC(), Step: grids()[r.IntN(len(grids()))], Level: 10,
		Samples: int(logBetween(r, 60, 20000)), Noise: kind, NoiseLevel: 1, Memory: 0.5 + 0.49*r.Float64()}
	level := 0.5 * r.Float64()
	if r.IntN(3) == 0 {
		level = 0
	}
	s.spoil(r, 1)
	if kind == Constant {
		s.Trend = 0
	}
	c := s.as(string(kind), 0)
	if kind == Poisson || kind == Steps || kind == Ramp {
		for i := range c.Series.Values {
			c.Series.Values[i] += level * r.NormFloat64()
		}
	}
	return c
}
