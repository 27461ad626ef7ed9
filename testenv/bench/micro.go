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
			"benchmarks BenchmarkFaults/ours and BenchmarkFaults/userfaultfd-go (make bench)",
			microRatio("faults/s", "Faults/ours", "Faults/userfaultfd-go")},
		{"nbd-read", "nbdcopy from our server: × the better of nbdkit memory and qemu-nbd", 1, true,
			"benchmarks BenchmarkNBDCopy/read/ours, /nbdkit and /qemu-nbd (make bench)",
			microRatio("MB/s", "NBDCopy/read/ours", "NBDCopy/read/nbdkit", "NBDCopy/read/qemu-nbd")},
		{"nbd-write", "nbdcopy to our server: × the better of nbdkit memory and qemu-nbd", 1, true,
			"benchmarks BenchmarkNBDCopy/write/ours, /nbdkit and /qemu-nbd (make bench)",
			microRatio("MB/s", "NBDCopy/write/ours", "NBDCopy/write/nbdkit", "NBDCopy/write/qemu-nbd")},
	}
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
		return []Bar{{Scope: "Go benchmarks", Value: &ratio, Detail: fmt.Sprintf("%.4g %s, %.4g %s", value, unit, held, unit)}}
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
