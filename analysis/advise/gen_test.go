package advise

import (
	"math"
	"math/rand/v2"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/cycle"
	"github.com/vmmigrate/vmmigrate/analysis/forecast"
	"github.com/vmmigrate/vmmigrate/analysis/sample"
)

var begin = time.Date(2026, 3, 1, 14, 0, 0, 0, time.UTC)

const mib = 1 << 20

var (
	guest   = forecast.Guest{RAM: 2048 * mib, NonZero: 1024 * mib}
	link    = forecast.Link{Bandwidth: 112 * mib, RTT: 200 * time.Microsecond}
	precopy = []forecast.Way{{Engine: forecast.EngineNative, Strategy: forecast.StrategyPrecopy}}
	hybrid  = []forecast.Way{{Engine: forecast.EngineNBD, Strategy: forecast.StrategyHybrid}}
)

// spec is a guest that is busy for a share of each cycle.
type spec struct {
	period, busy float64 // seconds; share
	high, low    float64 // bytes/s
	noise        float64 // deviation of a sample's logarithm
	jitter       float64 // deviation of a cycle's length, as a share
}

func (s spec) series(span time.Duration, seed uint64) sample.Series {
	r := rand.New(rand.NewPCG(seed, 17))
	out := sample.Series{Name: "dirty", Unit: "B/s", Start: begin, Step: time.Second}
	at, length := s.period*r.Float64(), s.period
	for range int(span / time.Second) {
		if at >= length {
			at -= length
			length = s.period * math.Exp(s.jitter*r.NormFloat64())
		}
		v := s.low
		if at < s.busy*length {
			v = s.high
		}
		out.Values = append(out.Values, v*math.Exp(s.noise*r.NormFloat64()))
		at++
	}
	return out
}

// known is a detector that was told the period, and is off by so much.
func known(period, off float64) func(sample.Series) (cycle.Result, error) {
	return func(sample.Series) (cycle.Result, error) {
		return cycle.Result{Cycles: []cycle.Cycle{{Period: time.Duration(period * (1 + off) * float64(time.Second)), Confidence: 0.95, Strength: 0.8}}, Known: 1}, nil
	}
}

func none(sample.Series) (cycle.Result, error) {
	return cycle.Result{Why: "nothing repeats", Known: 1}, nil
}

// walk is a series without a cycle: a random walk of the logarithm, bursts, or a step, by kind.
func walk(kind int, span time.Duration, seed uint64) sample.Series {
	r := rand.New(rand.NewPCG(seed, 23))
	out := sample.Series{Name: "dirty", Start: begin, Step: time.Second}
	level, burst := math.Log(30*mib), 0
	for i := range int(span / time.Second) {
		v := math.Exp(level)
		switch kind % 3 {
		case 0:
			level += 0.05 * r.NormFloat64()
			level = min(max(level, math.Log(mib)), math.Log(400*mib))
		case 1:
			if burst--; burst < 0 && r.Float64() < 0.01 {
				burst = 5 + r.IntN(40)
			}
			if burst > 0 {
				v *= 6
			}
		case 2:
			if i > int(span/time.Second)/2 {
				v *= 4
			}
		}
		out.Values = append(out.Values, v*math.Exp(0.3*r.NormFloat64()))
	}
	return out
}
