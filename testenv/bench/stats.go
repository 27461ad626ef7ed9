package bench

import (
	"math"
	"slices"
)

// Spread is the distribution of some values.
type Spread struct {
	N      int     `json:"n"`
	Min    float64 `json:"min"`
	P25    float64 `json:"p25"`
	Median float64 `json:"median"`
	P75    float64 `json:"p75"`
	P99    float64 `json:"p99"`
	Max    float64 `json:"max"`
}

// spread is the distribution of values; the zero Spread for none. Values that are no
// numbers are left out.
func spread(values []float64) Spread {
	v := slices.DeleteFunc(slices.Clone(values), func(x float64) bool { return math.IsNaN(x) || math.IsInf(x, 0) })
	if len(v) == 0 {
		return Spread{}
	}
	slices.Sort(v)
	return Spread{
		N: len(v), Min: v[0], P25: quantile(v, 0.25), Median: quantile(v, 0.5), P75: quantile(v, 0.75),
		P99: quantile(v, 0.99), Max: v[len(v)-1],
	}
}

// quantile is that of sorted values, between two of them by the straight line.
func quantile(sorted []float64, part float64) float64 {
	at := part * float64(len(sorted)-1)
	low := int(at)
	if low+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	rest := at - float64(low)
	return sorted[low]*(1-rest) + sorted[low+1]*rest
}

// figure is one field of Figures: its JSON name and where it is.
type figure struct {
	name string
	of   func(Figures) *float64
}

// figures are all of them.
func figures() []figure {
	return []figure{
		{"total_ms", func(f Figures) *float64 { return f.TotalMS }},
		{"downtime_ms", func(f Figures) *float64 { return f.DowntimeMS }},
		{"outside_ms", func(f Figures) *float64 { return f.OutsideMS }},
		{"link_bytes", func(f Figures) *float64 { return f.LinkBytes }},
		{"first_bytes", func(f Figures) *float64 { return f.FirstBytes }},
		{"return_part", func(f Figures) *float64 { return f.ReturnPart }},
		{"sent_bytes", func(f Figures) *float64 { return f.SentBytes }},
		{"must_bytes", func(f Figures) *float64 { return f.MustBytes }},
		{"nonzero_bytes", func(f Figures) *float64 { return f.Nonzero }},
		{"faults", func(f Figures) *float64 { return f.Faults }},
		{"landed_ms", func(f Figures) *float64 { return f.LandedMS }},
		{"disk_bytes", func(f Figures) *float64 { return f.DiskBytes }},
		{"disks_ms", func(f Figures) *float64 { return f.DisksMS }},
		{"disk_mib_per_s", func(f Figures) *float64 { return f.DiskSpeed }},
		{"read_p50_us", func(f Figures) *float64 { return f.ReadP50US }},
		{"read_p99_us", func(f Figures) *float64 { return f.ReadP99US }},
		{"fault_p50_us", func(f Figures) *float64 { return f.FaultP50US }},
		{"fault_p99_us", func(f Figures) *float64 { return f.FaultP99US }},
		{"prepaged_pages", func(f Figures) *float64 { return f.Prepaged }},
		{"speed_during", func(f Figures) *float64 { return f.During }},
		{"speed_after", func(f Figures) *float64 { return f.After }},
	}
}

// valuesOf are a figure's values in the runs that went well.
func valuesOf(runs []Run, name string) []float64 {
	var v []float64
	for _, f := range figures() {
		if f.name != name {
			continue
		}
		for _, r := range runs {
			if p := f.of(r.Figures); r.OK && p != nil {
				v = append(v, *p)
			}
		}
	}
	return v
}

// summarize works out a row's distributions. Failed runs count in none of them.
func summarize(runs []Run) Summary {
	s := Summary{Runs: len(runs), Figures: map[string]Spread{}}
	for _, r := range runs {
		if r.OK {
			s.OK++
		}
	}
	for _, f := range figures() {
		if v := valuesOf(runs, f.name); len(v) > 0 {
			s.Figures[f.name] = spread(v)
		}
	}
	return s
}
