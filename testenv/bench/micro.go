package bench

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
)

// Micro is one line of "go test -bench".
type Micro struct {
	Package string `json:"package,omitempty"`
	// Name is the benchmark's, without the number of processors behind it.
	Name string `json:"name"`
	N    int64  `json:"n"`
	// Values are by unit, such as "ns/op" and "MB/s".
	Values map[string]float64 `json:"values"`
}

// maxMicro bounds how many benchmarks are taken in.
const maxMicro = 10_000

var processors = regexp.MustCompile(`-\d+$`)

// ParseMicro reads what "go test -bench" printed. Lines that are no results are
// passed over.
func ParseMicro(r io.Reader) ([]Micro, error) {
	var list []Micro
	pkg := ""
	lines := bufio.NewScanner(r)
	for lines.Scan() && len(list) < maxMicro {
		fields := strings.Fields(lines.Text())
		if len(fields) == 2 && fields[0] == "pkg:" {
			pkg = fields[1]
			continue
		}
		if m, ok := microLine(fields); ok {
			m.Package = pkg
			list = append(list, m)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read benchmarks: %w", err)
	}
	return list, nil
}

func microLine(fields []string) (Micro, bool) {
	if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
		return Micro{}, false
	}
	n, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return Micro{}, false
	}
	m := Micro{Name: processors.ReplaceAllString(fields[0], ""), N: n, Values: map[string]float64{}}
	for i := 2; i+1 < len(fields); i += 2 {
		v, err := strconv.ParseFloat(fields[i], 64)
		if err != nil {
			return Micro{}, false
		}
		m.Values[fields[i+1]] = v
	}
	return m, true
}

// AddMicro takes in results of "go test -bench" and works the bars out again.
func (r *Report) AddMicro(list []Micro) {
	r.Micro = append(r.Micro, list...)
	r.finish()
}

// microRules are the bars that Go benchmarks answer. A benchmark is found by the end
// of its name, since that is all that the bar has to know of it.
func microRules() []rule {
	return []rule{
		{"faults-per-s", "demand faults a second: × userfaultfd-go's handler", 2, true,
			"BenchmarkFaultPath of postcopy, with the build tag that adds userfaultfd-go (make bench)",
			both(microRatio("faults/s", "FaultPath/pager/threads=1", "FaultPath/userfaultfd-go/threads=1"),
				microRatio("faults/s", "FaultPath/pager/threads=4", "FaultPath/userfaultfd-go/threads=4"))},
		{"fault-micro", "demand fault over NBD under bulk, median: µs beyond a round trip", 30, false,
			"BenchmarkDemandUnderBulk of postcopy (make bench)",
			both(microBeyond("DemandUnderBulk/1Gbit", "p50-us", "rtt-us"), microBeyond("DemandUnderBulk/open", "p50-us", "rtt-us"))},
		{"nbd-read", "nbdcopy from our server: × the better of nbdkit memory and qemu-nbd", 1, true,
			"BenchmarkNBDCopy of migrate/nbd (make bench)", microBeside("NBDCopy/read", "ours-MB/s", "nbdkit-MB/s", "qemu-nbd-MB/s")},
		{"nbd-write", "nbdcopy to our server: × the better of nbdkit memory and qemu-nbd", 1, true,
			"BenchmarkNBDCopy of migrate/nbd (make bench)", microBeside("NBDCopy/write", "ours-MB/s", "nbdkit-MB/s", "qemu-nbd-MB/s")},
		{"harvest", "a harvest of 1 GiB by uffd-wp, the slowest of all: ms", 5, false,
			"BenchmarkHarvest of precopy/track (make bench)", microWorst("Harvest/uffd-wp/", "ms/harvest")},
		{"slowdown", "a guest that is harvested once a second, the worst of all: % slower", 1, false,
			"BenchmarkSlowdown of precopy/track (make bench)", microWorst("Slowdown/", "%slower")},
	}
}

// both joins what two measures found.
func both(a, b func(Report) []Bar) func(Report) []Bar {
	return func(r Report) []Bar { return append(a(r), b(r)...) }
}

// microRatio holds one benchmark against the best of others, more being better.
func microRatio(unit, us string, them ...string) func(Report) []Bar {
	return func(r Report) []Bar {
		value, ok := microBest(r.Micro, unit, us)
		held, beside := microBest(r.Micro, unit, them...)
		if !ok || !beside || held <= 0 {
			return nil
		}
		ratio := value / held
		return []Bar{{Scope: us, Value: &ratio, Detail: fmt.Sprintf("%.4g %s, %.4g %s", value, unit, held, unit)}}
	}
}

// microBeside holds one value of a benchmark against the best of others of the same.
func microBeside(name, us string, them ...string) func(Report) []Bar {
	return func(r Report) []Bar {
		value, ok := microBest(r.Micro, us, name)
		held, with := 0.0, ""
		for _, unit := range them {
			if v, has := microBest(r.Micro, unit, name); has && v > held {
				held, with = v, unit
			}
		}
		if !ok || held == 0 {
			return nil
		}
		ratio := value / held
		return []Bar{{Scope: name, Value: &ratio, Detail: fmt.Sprintf("%.4g %s, %.4g %s", value, us, held, with)}}
	}
}

// microWorst is the highest value of all benchmarks with that in their name.
func microWorst(part, unit string) func(Report) []Bar {
	return func(r Report) []Bar {
		var worst *Micro
		for i, m := range r.Micro {
			if v, has := m.Values[unit]; has && strings.Contains(m.Name, part) && (worst == nil || v > worst.Values[unit]) {
				worst = &r.Micro[i]
			}
		}
		if worst == nil {
			return nil
		}
		value := worst.Values[unit]
		return []Bar{{Scope: "Go benchmarks", Value: &value, Detail: worst.Name}}
	}
}

// microBeyond is how far one value of a benchmark is beyond another of the same.
func microBeyond(name, unit, base string) func(Report) []Bar {
	return func(r Report) []Bar {
		value, ok := microBest(r.Micro, unit, name)
		held, beside := microBest(r.Micro, base, name)
		if !ok || !beside {
			return nil
		}
		beyond := value - held
		return []Bar{{Scope: name, Value: &beyond, Detail: fmt.Sprintf("%.0f µs, round trip %.0f µs", value, held)}}
	}
}

// microBest is the median over repeated lines of each of the names, and of those the
// highest.
func microBest(list []Micro, unit string, names ...string) (best float64, ok bool) {
	for _, name := range names {
		var values []float64
		for _, m := range list {
			if v, has := m.Values[unit]; has && strings.HasSuffix(m.Name, name) {
				values = append(values, v)
			}
		}
		if s := spread(values); s.N > 0 {
			best, ok = max(best, s.Median), true
		}
	}
	return best, ok
}
