package sample

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// Metric is what a series is of.
type Metric string

const (
	// MetricDirty is how much of its RAM the guest writes: distinct bytes (of whole pages) dirtied per second, counted over
	// windows of one step. Half the step does not give half of it: a page that is written twice counts once.
	MetricDirty Metric = "dirty"
	// MetricCPU is the share of its vCPUs that the guest uses, 0 to 1.
	MetricCPU Metric = "cpu"
	// MetricDiskWrites is bytes per second written to disks.
	MetricDiskWrites Metric = "disk-writes"
	// MetricNetwork is bytes per second sent by the guest.
	MetricNetwork Metric = "network"
)

// Metrics are all of them.
func Metrics() []Metric { return []Metric{MetricDirty, MetricCPU, MetricDiskWrites, MetricNetwork} }

// Unit is what a metric is counted in.
func (m Metric) Unit() string {
	switch m {
	case MetricCPU:
		return ""
	case MetricDirty, MetricDiskWrites, MetricNetwork:
		return "B/s"
	}
	return ""
}

// MaxSamples bounds a series: what comes from elsewhere must not take all memory.
const MaxSamples = 16 << 20

var (
	// ErrNoSamples is given where there is nothing to work on.
	ErrNoSamples = errors.New("no samples")
	// ErrTooLong is given for a series of more than MaxSamples steps.
	ErrTooLong = fmt.Errorf("more than %d steps", MaxSamples)
)

// Series is a metric on a regular grid: Values[i] holds for the step that begins at Start + i × Step. NaN is a sample that is
// missing. The zero value is empty.
type Series struct {
	// Name is the metric's, or what a file calls its column.
	Name string
	// Unit of the values; empty for plain numbers.
	Unit   string
	Start  time.Time
	Step   time.Duration
	Values []float64
}

// Len is the number of steps, missing ones included.
func (s Series) Len() int { return len(s.Values) }

// Span is the time from the first step's begin to the last one's end.
func (s Series) Span() time.Duration { return time.Duration(len(s.Values)) * s.Step }

// End is the end of the last step.
func (s Series) End() time.Time { return s.Start.Add(s.Span()) }

// At is when step i begins.
func (s Series) At(i int) time.Time { return s.Start.Add(time.Duration(i) * s.Step) }

// Index is the step in which t lies; it may lie outside of the series.
func (s Series) Index(t time.Time) int {
	d := t.Sub(s.Start)
	i := int(d / s.Step)
	if d < 0 && d%s.Step != 0 {
		i--
	}
	return i
}

// Known is the number of samples that are not missing.
func (s Series) Known() int {
	n := 0
	for _, v := range s.Values {
		if !math.IsNaN(v) {
			n++
		}
	}
	return n
}

// Slice is the part from step lo up to hi; it shares the values.
func (s Series) Slice(lo, hi int) Series {
	s.Start, s.Values = s.At(lo), s.Values[lo:hi:hi]
	return s
}

// Last is the part of at most that span up to the end.
func (s Series) Last(span time.Duration) Series {
	if s.Step <= 0 {
		return s
	}
	return s.Slice(max(0, s.Len()-int(span/s.Step)), s.Len())
}

// Append adds a sample at a time at or after the end; steps between are missing. A sample before the end is refused, and so is
// one that would make the series longer than MaxSamples.
func (s *Series) Append(at time.Time, v float64) error {
	if s.Step <= 0 {
		return fmt.Errorf("series %s: a step of %s", s.Name, s.Step)
	}
	if len(s.Values) == 0 {
		s.Start, s.Values = at, append(s.Values, v)
		return nil
	}
	switch i := s.Index(at); {
	case i < len(s.Values):
		return fmt.Errorf("series %s: a sample at %s, and it has come to %s", s.Name, at.Format(time.RFC3339Nano), s.End().Format(time.RFC3339Nano))
	case i >= MaxSamples:
		return fmt.Errorf("series %s: a sample at %s: %w", s.Name, at.Format(time.RFC3339Nano), ErrTooLong)
	default:
		for len(s.Values) < i {
			s.Values = append(s.Values, math.NaN())
		}
		s.Values = append(s.Values, v)
	}
	return nil
}

// Reduce gives the series with steps n times as long, each the mean of what is known in it, and missing where less than half
// is. What is left over at the end counts as a step of its own.
func (s Series) Reduce(n int) Series {
	if n <= 1 {
		return s
	}
	out := s
	out.Step = s.Step * time.Duration(n)
	out.Values = make([]float64, 0, (len(s.Values)+n-1)/n)
	for part := range slices.Chunk(s.Values, n) {
		out.Values = append(out.Values, mean(part))
	}
	return out
}

// mean is NaN where less than half is known.
func mean(values []float64) float64 {
	sum, known := 0.0, 0
	for _, v := range values {
		if !math.IsNaN(v) {
			sum += v
			known++
		}
	}
	if known == 0 || 2*known < len(values) {
		return math.NaN()
	}
	return sum / float64(known)
}

// Windows is the dirty metric over windows of several lengths, each twice the one before: Series i holds the distinct bytes
// dirtied within each window of Series[i].Step, which is far from linear in the window's length. It may be empty: then only rates
// are known.
type Windows []Series
