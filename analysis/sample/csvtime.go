package sample

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// stamp is a time as it is written: an instant, or a number of which only the whole file tells what it counts.
type stamp struct {
	ns     int64 // of an instant; of a number, its fraction in units of 1e-9
	number int64
	plain  bool // a number
}

// layouts of times beside RFC 3339. Go reads a fraction of a second after each by itself.
var layouts = []string{time.RFC3339, "2006-01-02 15:04:05", "2006-01-02T15:04:05", "2006-01-02 15:04:05Z07:00", "2006-01-02 15:04:05 Z0700",
	"2006-01-02 15:04:05 MST", "2006-01-02 15:04", "2006-01-02T15:04", "2006-01-02T15:04Z07:00", "2006-01-02", "2006/01/02 15:04:05"}

// The years that are taken: any two times within them are less than 2^63 ns apart.
const firstYear, lastYear = 1900, 2150

// parseTime reads a time.
func parseTime(s string, loc *time.Location) (stamp, error) {
	if t, ok := parseNumber(s); ok {
		return t, nil
	}
	if len(s) <= 64 {
		for _, l := range layouts {
			t, err := time.ParseInLocation(l, s, loc)
			if err != nil {
				continue
			}
			if y := t.UTC().Year(); y < firstYear || y > lastYear {
				return stamp{}, fmt.Errorf("%s is not between %d and %d", quoted(s), firstYear, lastYear)
			}
			return stamp{ns: t.UnixNano()}, nil
		}
	}
	return stamp{}, fmt.Errorf("%s is no time: wanted is 2006-01-02T15:04:05Z, 2006-01-02 15:04:05, or a number of s, ms, µs or ns since 1970", quoted(s))
}

// parseNumber reads digits with a fraction of at most nine, exactly; or a float such as 1.3e9.
func parseNumber(s string) (stamp, bool) {
	whole, frac, _ := strings.Cut(s, ".")
	if n, err := strconv.ParseInt(whole, 10, 64); err == nil && len(frac) <= 9 {
		if frac == "" {
			return stamp{number: n, plain: true}, true
		}
		if f, err := strconv.ParseUint(frac, 10, 32); err == nil {
			ns := int64(f)
			for range 9 - len(frac) {
				ns *= 10
			}
			if strings.HasPrefix(whole, "-") {
				ns = -ns
			}
			return stamp{number: n, ns: ns, plain: true}, true
		}
	}
	if v, err := strconv.ParseFloat(s, 64); err == nil && math.Abs(v) < 1<<62 {
		n, f := math.Modf(v)
		return stamp{number: int64(n), ns: int64(f * 1e9), plain: true}, true
	}
	return stamp{}, false
}

// clock gathers times.
type clock struct {
	ns, numbers []int64 // numbers is empty where times are instants
	plain       bool
	most        uint64 // the largest number, which tells the unit
}

func (c *clock) len() int { return len(c.ns) }

func (c *clock) add(t stamp) error {
	if c.len() == 0 {
		c.plain = t.plain
	}
	if t.plain != c.plain {
		return errors.New("the time is written in another way than on the lines before")
	}
	c.ns = append(c.ns, t.ns)
	if t.plain {
		c.numbers = append(c.numbers, t.number)
		c.most = max(c.most, magnitude(t.number))
	}
	return nil
}

func magnitude(n int64) uint64 {
	if n < 0 {
		return uint64(-(n + 1)) + 1
	}
	return uint64(n)
}

// unit of numbers since 1970, from the largest of them: up to the year 5138 none of a larger unit is as large.
func (c *clock) unit() int64 {
	switch {
	case c.most < 1e11:
		return int64(time.Second)
	case c.most < 1e14:
		return int64(time.Millisecond)
	case c.most < 1e17:
		return int64(time.Microsecond)
	}
	return 1
}

// instants gives all times in ns since 1970.
func (c *clock) instants() ([]int64, error) {
	if !c.plain {
		return c.ns, nil
	}
	unit := c.unit()
	lo, hi := time.Date(firstYear, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano(), time.Date(lastYear+1, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano()
	out := make([]int64, len(c.ns))
	for i, n := range c.numbers {
		if n <= lo/unit || n >= hi/unit {
			return nil, fmt.Errorf("the time %d is not between the years %d and %d", n, firstYear, lastYear)
		}
		out[i] = n*unit + c.ns[i]/(int64(time.Second)/unit)
	}
	return out, nil
}

// step is the median difference between times in order, without those that are the same. Where most differ from it, the times
// jitter: then it is the mean of those near the median, and rounded if that is within a hundredth. Else the grid would drift away
// from what was meant.
func step(sorted []int64) (time.Duration, error) {
	diffs := make([]int64, 0, len(sorted))
	for i := 1; i < len(sorted); i++ {
		if d := sorted[i] - sorted[i-1]; d > 0 {
			diffs = append(diffs, d)
		}
	}
	if len(diffs) == 0 {
		return 0, errors.New("all rows are of the same time: the step cannot be told from them, it has to be given")
	}
	slices.Sort(diffs)
	median := diffs[len(diffs)/2]
	lo, _ := slices.BinarySearch(diffs, median)
	hi, _ := slices.BinarySearch(diffs, median+1)
	if 2*(hi-lo) >= len(diffs) {
		return time.Duration(median), nil
	}
	lo, _ = slices.BinarySearch(diffs, median/2)
	hi, _ = slices.BinarySearch(diffs, median+median/2)
	mean := 0.0
	for i, d := range diffs[lo:hi] {
		mean += (float64(d) - mean) / float64(i+1)
	}
	d := max(1, time.Duration(mean))
	for _, round := range []time.Duration{time.Minute, time.Second, time.Millisecond} {
		if r := d.Round(round); r > 0 && (r-d).Abs() <= d/100 {
			return r, nil
		}
	}
	return d, nil
}
