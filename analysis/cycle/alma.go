package cycle

import (
	"fmt"
	"math"
	"slices"

	"github.com/vmmigrate/vmmigrate/analysis/sample"
)

// ALMAOptions of DetectALMA. The zero value is fit for use.
type ALMAOptions struct {
	// Beside are further metrics on the same grid, which the classifier sees too: CPU, disk writes, network.
	Beside []sample.Series
	// Model tells suitable moments from the others; nil is one learnt from the series itself (Learn).
	Model *Bayes
	// Stand is how many times the mean power a peak of the spectrum must have to be a cycle; 0 is 20, which does best on
	// generated series: the papers name no figure.
	Stand float64
}

// Bayes is a Gaussian naive Bayes classifier of moments into suitable for a migration and not.
type Bayes struct {
	suitable, busy class
}

// class is one of the two: how often it is, and what each metric is in it.
type class struct {
	prior          float64
	mean, variance []float64
}

// Train makes a classifier of moments, each with a value per metric (NaN = missing), of which it is known whether they are suitable.
func Train(moments [][]float64, suitable []bool) (*Bayes, error) {
	if len(moments) == 0 || len(moments) != len(suitable) {
		return nil, fmt.Errorf("train a classifier: %d moments with %d labels", len(moments), len(suitable))
	}
	m := &Bayes{}
	for _, c := range []struct {
		class *class
		label bool
	}{{&m.suitable, true}, {&m.busy, false}} {
		*c.class = describe(moments, suitable, c.label)
	}
	return m, nil
}

// describe takes the mean and variance of each metric over the moments with that label.
func describe(moments [][]float64, suitable []bool, label bool) class {
	metrics := len(moments[0])
	c := class{mean: make([]float64, metrics), variance: make([]float64, metrics)}
	n := 0.0
	for _, s := range suitable {
		if s == label {
			n++
		}
	}
	c.prior = (n + 1) / (float64(len(suitable)) + 2)
	for k := range metrics {
		var sum, squares, known float64
		for i, m := range moments {
			if suitable[i] == label && k < len(m) && !math.IsNaN(m[k]) {
				sum, squares, known = sum+m[k], squares+m[k]*m[k], known+1
			}
		}
		if known > 0 {
			c.mean[k] = sum / known
			c.variance[k] = max(0, squares/known-c.mean[k]*c.mean[k])
		}
		c.variance[k] += 1e-6 // moments without spread must not be certain
	}
	return c
}

// Suitable classifies a moment. Metrics that are missing say nothing.
func (m *Bayes) Suitable(moment []float64) bool {
	return m.suitable.likelihood(moment) >= m.busy.likelihood(moment)
}

func (c class) likelihood(moment []float64) float64 {
	sum := math.Log(c.prior)
	for k, v := range moment {
		if k < len(c.mean) && !math.IsNaN(v) {
			d := v - c.mean[k]
			sum -= 0.5 * (math.Log(c.variance[k]) + d*d/c.variance[k])
		}
	}
	return sum
}

// Learn trains a classifier on moments without labels: suitable is where the first metric is in the lower half of the range
// that it mostly has. The original is trained on labelled benchmarks, which nobody has for a guest that is not one.
func Learn(moments [][]float64) (*Bayes, error) {
	var first []float64
	for _, m := range moments {
		if len(m) > 0 && !math.IsNaN(m[0]) {
			first = append(first, m[0])
		}
	}
	if len(first) == 0 {
		return nil, fmt.Errorf("learn to classify: %w", sample.ErrNoSamples)
	}
	slices.Sort(first)
	low, high := first[len(first)/20], first[len(first)-1-len(first)/20]
	suitable := make([]bool, len(moments))
	for i, m := range moments {
		suitable[i] = len(m) > 0 && m[0] <= (low+high)/2
	}
	return Train(moments, suitable)
}

// DetectALMA finds a cycle the way of Baruchi et al. and of ALMA: naive Bayes calls each step suitable for a migration or not,
// and the highest peak of the spectrum of that binary series is the cycle, if it stands out. At most one cycle is found. The
// second result is that binary series, false where nothing is known. It is here to be compared with Detect.
func DetectALMA(s sample.Series, o ALMAOptions) (Result, []bool, error) {
	if s.Len() == 0 || s.Step <= 0 || s.Len() > sample.MaxSamples {
		return Result{}, nil, fmt.Errorf("detect a cycle of %s: %d samples with a step of %s", s.Name, s.Len(), s.Step)
	}
	moments, err := together(s, o.Beside)
	if err != nil {
		return Result{}, nil, err
	}
	r := Result{Known: float64(s.Known()) / float64(s.Len())}
	suitable := make([]bool, s.Len())
	model := o.Model
	if model == nil {
		if model, err = Learn(moments); err != nil {
			r.Why = "nothing is known of it"
			return r, suitable, nil
		}
	}
	binary := make([]float64, s.Len())
	for i, m := range moments {
		binary[i] = math.NaN()
		if slices.ContainsFunc(m, func(v float64) bool { return !math.IsNaN(v) }) {
			suitable[i] = model.Suitable(m)
			binary[i] = float64(map[bool]int{true: 1}[suitable[i]])
		}
	}
	r.Cycles, r.Why = standsOut(binary, s, o.Stand)
	return r, suitable, nil
}

// together puts the metrics side by side, each scaled to -1 to 1.
func together(s sample.Series, beside []sample.Series) ([][]float64, error) {
	all := append([]sample.Series{s}, beside...)
	out := make([][]float64, s.Len())
	flat := make([]float64, s.Len()*len(all))
	for k, t := range all {
		if t.Len() != s.Len() || t.Step != s.Step || !t.Start.Equal(s.Start) {
			return nil, fmt.Errorf("detect a cycle of %s: %s is not on the same grid", s.Name, t.Name)
		}
		top := 0.0
		for _, v := range t.Values {
			if !math.IsInf(v, 0) && !math.IsNaN(v) {
				top = max(top, math.Abs(v))
			}
		}
		for i, v := range t.Values {
			if math.IsInf(v, 0) {
				v = math.NaN()
			}
			if top > 0 {
				v /= top
			}
			flat[i*len(all)+k] = v
		}
	}
	for i := range out {
		out[i] = flat[i*len(all) : (i+1)*len(all)]
	}
	return out, nil
}

// standsOut is the cycle of the highest peak of the spectrum of x, without leading it through a window, as the original has it.
func standsOut(x []float64, s sample.Series, stand float64) ([]Cycle, string) {
	if stand == 0 {
		stand = 20
	}
	power, n := plain(x)
	best, sum := 0, 0.0
	first := observed // a cycle is seen three times at least
	for k := first; k < len(power); k++ {
		sum += power[k]
		if power[k] > power[max(best, first)] || best == 0 {
			best = k
		}
	}
	if best == 0 || sum == 0 {
		return nil, "all moments are alike"
	}
	period := float64(n) / float64(best)
	ratio := power[best] / (sum / float64(len(power)-first))
	if ratio < stand {
		return nil, fmt.Sprintf("no peak of the spectrum stands out: the highest has %.1f times the mean power", ratio)
	}
	c := Cycle{Period: scaled(period, s.Step), Confidence: 1 - stand/(stand+ratio), Strength: min(1, power[best]/sum)}
	return []Cycle{c}, fmt.Sprintf("it repeats every %s, by the highest peak of the spectrum", Short(c.Period))
}
