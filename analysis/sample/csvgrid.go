package sample

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// grid puts the rows where they belong.
func (c *csvReader) grid() (Table, error) {
	at, err := c.times.instants()
	if err != nil {
		return Table{}, err
	}
	t := Table{Rows: len(at), Unordered: unordered(at)}
	sorted := at
	if t.Unordered > 0 {
		sorted = slices.Clone(at)
		slices.Sort(sorted)
	}
	d := c.o.Step
	if d == 0 {
		if d, err = step(sorted); err != nil {
			return t, err
		}
	}
	first, last := sorted[0], sorted[len(sorted)-1]
	slot := func(ns int64) int64 { return nearest(ns-first, int64(d)) }
	n := slot(last) + 1
	if n > MaxSamples || n*int64(len(c.cols)) > MaxCells { // few rows can be far apart
		return t, fmt.Errorf("rows from %s to %s, %s apart, in %d columns: %w", instant(first).Format(time.RFC3339), instant(last).Format(time.RFC3339), d, len(c.cols), ErrTooLong)
	}
	hits := make([]int32, n)
	for _, ns := range at {
		hits[slot(ns)]++
	}
	for _, h := range hits {
		if h == 0 {
			t.Absent++
		} else {
			t.Merged += int(h) - 1
		}
	}
	for i, col := range c.cols {
		name, unit := splitUnit(c.names[col])
		if name == "" {
			name = strconv.Itoa(col + 1)
		}
		s := Series{Name: name, Unit: unit, Start: instant(first), Step: d, Values: place(at, c.vals[i], int(n), slot)}
		t.Series = append(t.Series, s)
		c.vals[i] = nil
	}
	return t, nil
}

// nearest is how many times d fits into x, rounded.
func nearest(x, d int64) int64 {
	n := x / d
	if left := x % d; left >= d-left {
		n++
	}
	return n
}

func instant(ns int64) time.Time { return time.Unix(0, ns).UTC() }

// unordered counts rows that are earlier than one before them.
func unordered(at []int64) int {
	n, most := 0, at[0]
	for _, t := range at {
		if t < most {
			n++
		}
		most = max(most, t)
	}
	return n
}

// place gives each step the mean of what is known of it.
func place(at []int64, values []float64, n int, slot func(int64) int64) []float64 {
	out := make([]float64, n)
	for i := range out {
		out[i] = math.NaN()
	}
	var known map[int64]float64 // of steps with several values: how many so far
	for i, v := range values {
		if math.IsNaN(v) {
			continue
		}
		s := slot(at[i])
		if math.IsNaN(out[s]) {
			out[s] = v
			continue
		}
		if known == nil {
			known = map[int64]float64{}
		}
		known[s]++
		out[s] += (v - out[s]) / (known[s] + 1)
	}
	return out
}

// WriteCSV writes series side by side, with a header of names and units, times as RFC 3339 in UTC, and nothing where a sample
// is missing. ReadCSV gives exactly the same back, if there are two rows or it is told the step. All must be of one step, on one grid.
func WriteCSV(w io.Writer, series ...Series) error {
	if len(series) == 0 {
		return ErrNoSamples
	}
	first, n, err := frame(series)
	if err != nil {
		return err
	}
	b := bufio.NewWriter(w)
	b.WriteString("time") // a bufio.Writer keeps its error for Flush
	for _, s := range series {
		b.WriteByte(',')
		b.WriteString(header(s))
	}
	b.WriteByte('\n')
	var text []byte
	for i := range n {
		at := first.Add(time.Duration(i) * series[0].Step)
		text = at.UTC().AppendFormat(text[:0], time.RFC3339Nano)
		for _, s := range series {
			text = append(text, ',')
			if k := i - int(s.Start.Sub(first)/s.Step); k >= 0 && k < s.Len() && !math.IsNaN(s.Values[k]) {
				if math.IsInf(s.Values[k], 0) {
					return fmt.Errorf("series %s: an infinite value at %s", s.Name, at.Format(time.RFC3339))
				}
				text = strconv.AppendFloat(text, s.Values[k], 'g', -1, 64)
			}
		}
		b.Write(append(text, '\n'))
	}
	return b.Flush()
}

// frame gives the begin and the number of rows that hold all series.
func frame(series []Series) (time.Time, int, error) {
	first, last := time.Time{}, time.Time{}
	for _, s := range series {
		switch {
		case s.Step <= 0 || s.Step != series[0].Step:
			return first, 0, fmt.Errorf("series %s has a step of %s, and %s one of %s: one file holds one step", s.Name, s.Step, series[0].Name, series[0].Step)
		case s.Len() == 0:
			return first, 0, fmt.Errorf("series %s: %w", s.Name, ErrNoSamples)
		case s.Start.Sub(series[0].Start)%s.Step != 0:
			return first, 0, fmt.Errorf("series %s and %s do not begin on one grid", s.Name, series[0].Name)
		case strings.ContainsAny(s.Name+s.Unit, "\r\n"):
			return first, 0, errors.New("a name with a line break")
		}
		if first.IsZero() || s.Start.Before(first) {
			first = s.Start
		}
		if s.End().After(last) {
			last = s.End()
		}
	}
	n := int(last.Sub(first) / series[0].Step)
	if n > MaxSamples {
		return first, n, ErrTooLong
	}
	return first, n, nil
}

// header is a column's name with its unit.
func header(s Series) string {
	h := s.Name
	if s.Unit != "" {
		h += " [" + s.Unit + "]"
	}
	if strings.ContainsAny(h, ",;\t\"") {
		return `"` + strings.ReplaceAll(h, `"`, `""`) + `"`
	}
	return h
}
