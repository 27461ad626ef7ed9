package cycle

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/sample"
)

// Options of Detect. The zero value is fit for use.
type Options struct {
	// Shortest and Longest period to name. 0 is what can be told: four steps, and a third of the series.
	Shortest, Longest time.Duration
	// Confidence is the least to be called a cycle; 0 is 0.85.
	Confidence float64
	// Most is how many cycles are named; 0 is 3.
	Most int
}

// fill sets what is zero.
func (o Options) fill() Options {
	if o.Confidence == 0 {
		o.Confidence = 0.85
	}
	if o.Most == 0 {
		o.Most = 3
	}
	if o.Longest == 0 {
		o.Longest = math.MaxInt64
	}
	return o
}

// fewest samples that anything can be said about.
const fewest = 4 * observed

// Detect finds the cycles of a series. It is pure: the same series gives the same result. Samples that are missing or infinite
// are left out. An error means that this is not a series; one without a cycle is a result that says so.
func Detect(s sample.Series, o Options) (Result, error) {
	switch {
	case s.Len() == 0:
		return Result{}, fmt.Errorf("detect cycles of %s: %w", s.Name, sample.ErrNoSamples)
	case s.Len() > sample.MaxSamples:
		return Result{}, fmt.Errorf("detect cycles of %s: %w", s.Name, sample.ErrTooLong)
	case s.Step <= 0:
		return Result{}, fmt.Errorf("detect cycles of %s: a step of %s", s.Name, s.Step)
	case o.Shortest < 0 || o.Longest < 0 || !(o.Confidence >= 0 && o.Confidence <= 1) || o.Most < 0:
		return Result{}, fmt.Errorf("detect cycles of %s: options %+v are out of range", s.Name, o)
	}
	o = o.fill()
	x, known := normal(s.Values)
	r := Result{Known: float64(known) / float64(s.Len())}
	switch {
	case known < fewest:
		r.Why = fmt.Sprintf("only %d samples are known, and it takes %d to see a cycle %d times", known, fewest, observed)
		return r, nil
	case !straighten(x):
		r.Why = "the series is constant"
		return r, nil
	}
	all := confirmed(levels(x))
	var taken []chosen
	for _, f := range choose(all, o) {
		c := f.cycle(s.Step)
		if c.Period >= o.Shortest && c.Period <= o.Longest && len(taken) < o.Most {
			r.Cycles, taken = append(r.Cycles, c), append(taken, f)
		}
	}
	r.Why = words(r.Cycles, taken, all, s)
	return r, nil
}

// confirmed are the candidates of all levels that could be asked about, strongest first.
func confirmed(levels []*level) []found {
	var all []found
	for _, l := range levels {
		for _, p := range candidates(l) {
			if f, ok := confirm(l, p, 0); ok {
				all = append(all, f)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b found) int { return cmp.Compare(b.strength, a.strength) })
	return all
}
