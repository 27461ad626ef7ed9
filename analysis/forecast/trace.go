package forecast

import "fmt"

// NewTrace is the curve of what really was, by the same sources: no cycle, no ranges, each time by its own samples. It is what
// simulations and oracles measure by. Before the first and after the last sample the curve stays as it is there.
func NewTrace(s Sources) (*Folded, error) {
	base, err := s.base()
	if err != nil {
		return nil, fmt.Errorf("trace: %w", err)
	}
	out := &Folded{step: base.Step}
	p := phase{anchor: base.Start, period: base.Span().Seconds(), bins: base.Len()}
	out.dirty = p.trace(base.Values)
	s.widen(&out.dirty, p)
	out.dirty.low, out.dirty.high = out.dirty.mid, out.dirty.mid
	out.disk = phase{anchor: base.Start, period: base.Span().Seconds(), bins: 1}.disks(s.DiskWrites)
	if s.DiskWrites.Known() > 0 {
		d := s.DiskWrites
		q := phase{anchor: d.Start, period: d.Span().Seconds(), bins: d.Len()}
		values := make([]float64, d.Len())
		for i, v := range d.Values {
			values[i] = v * d.Step.Seconds()
		}
		out.disk = q.trace(values)
		all := make([][]float64, 0, 24)
		for w := out.disk.base; w < max(q.period, 4096) && len(all) < 24; w *= 2 {
			all = append(all, []float64{1})
		}
		out.disk.mid = out.disk.grow(out.disk.mid.levels[0], all, 0)
		out.disk.low, out.disk.high = out.disk.mid, out.disk.mid
	}
	return out, nil
}

func (p phase) trace(values []float64) table {
	row := make([]float64, len(values))
	copy(row, values)
	fill(row)
	t := p.table(folded{row, row, row}, 0)
	t.base, t.wrap = p.width(), false
	return t
}
