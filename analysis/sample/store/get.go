package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/sample"
)

// Kept is what is kept of a guest.
type Kept struct {
	Guest
	Series []KeptSeries `json:"series"`
}

// Last is the end of what is kept of it.
func (k Kept) Last() time.Time {
	var last time.Time
	for _, s := range k.Series {
		if s.Last.After(last) {
			last = s.Last
		}
	}
	return last
}

// KeptSeries is one series of a guest.
type KeptSeries struct {
	Metric  sample.Metric `json:"metric"`
	Windows bool          `json:"windows"` // distinct bytes in windows of one step
	Unit    string        `json:"unit"`
	Step    time.Duration `json:"step_ns"`
	First   time.Time     `json:"first"`
	Last    time.Time     `json:"last"` // the end of its last step
}

// Guests lists all, by name.
func (s *Store) Guests(ctx context.Context) ([]Kept, error) {
	rows, err := s.db.QueryContext(ctx, "SELECT uuid, name FROM guests ORDER BY name, uuid")
	if err != nil {
		return nil, s.explain("read", err)
	}
	out, err := collect(rows, func(r *sql.Rows) (k Kept, err error) { return k, r.Scan(&k.UUID, &k.Name) })
	for i := range out {
		if err == nil {
			err = s.describe(ctx, &out[i])
		}
	}
	return out, s.explain("read", err)
}

// describe adds a guest's series.
func (s *Store) describe(ctx context.Context, g *Kept) error {
	list, err := s.list(ctx, g.UUID, "")
	if err != nil {
		return err
	}
	for _, k := range list {
		first, err := s.first(ctx, k)
		if err != nil {
			return err
		}
		g.Series = append(g.Series, KeptSeries{Metric: sample.Metric(k.metric), Windows: k.windows, Unit: k.unit, Step: k.step, First: first, Last: k.at(k.newest + 1)})
	}
	return nil
}

// first is about when what is kept of a series begins: its first block does.
func (s *Store) first(ctx context.Context, k kept) (time.Time, error) {
	b, err := blocksOf(ctx, s.db, "WHERE series = ? ORDER BY level DESC, block LIMIT 1", k.id)
	if err != nil || len(b) == 0 {
		return k.at(k.newest + 1), err
	}
	r := ratios(k.step)
	n := b[0].n * slots
	for i, c := range b[0].b {
		if c.known() {
			n += int64(i)
			break
		}
	}
	for l := 1; l <= b[0].level; l++ {
		n *= r[l]
	}
	return k.at(n), nil
}

// Find gives a guest by UUID or by name. Of several with that name it is the one that was seen last.
func (s *Store) Find(ctx context.Context, uuidOrName string) (Kept, error) {
	var k Kept
	err := s.db.QueryRowContext(ctx, "SELECT uuid, name FROM guests g WHERE uuid = ?1 OR name = ?1 "+
		"ORDER BY uuid = ?1 DESC, (SELECT max(newest * step + origin) FROM series WHERE guest = g.id) DESC LIMIT 1", uuidOrName).Scan(&k.UUID, &k.Name)
	if errors.Is(err, sql.ErrNoRows) {
		return k, s.explain("read", fmt.Errorf("%q: %w", uuidOrName, ErrNoGuest))
	}
	if err == nil {
		err = s.describe(ctx, &k)
	}
	return k, s.explain("read", err)
}

// Remove forgets a guest.
func (s *Store) Remove(ctx context.Context, uuid string) error {
	res, err := s.db.ExecContext(ctx, "DELETE FROM guests WHERE uuid = ?", uuid)
	if err != nil {
		return s.explain("remove", err)
	}
	if n, err := res.RowsAffected(); err == nil && n == 0 {
		return s.explain("remove", fmt.Errorf("%q: %w", uuid, ErrNoGuest))
	}
	return nil
}

// Query says which part of a series is wanted. The zero value is all of it.
type Query struct {
	From, To time.Time
	// Step is the longest that will do: what is kept in less detail comes as it is. 0 asks for the finest steps in which all of
	// the time is kept.
	Step time.Duration
}

// Band is a series with its extremes: where it was thinned they are those within each step, else all three are the same.
type Band struct{ Min, Mean, Max sample.Series }

// Series gives a metric of a guest, by UUID. Where there are several, of different steps, it is the one that goes on longest.
func (s *Store) Series(ctx context.Context, uuid string, m sample.Metric, q Query) (sample.Series, error) {
	b, err := s.Band(ctx, uuid, m, q)
	return b.Mean, err
}

// Band is Series with the extremes.
func (s *Store) Band(ctx context.Context, uuid string, m sample.Metric, q Query) (Band, error) {
	list, err := s.list(ctx, uuid, string(m))
	if err != nil {
		return Band{}, s.explain("read", err)
	}
	var best *kept
	for i, k := range list {
		if !k.windows && (best == nil || k.at(k.newest).After(best.at(best.newest))) {
			best = &list[i]
		}
	}
	if best == nil {
		return Band{}, s.explain("read", fmt.Errorf("%s: %w", m, ErrNoGuest))
	}
	b, err := s.band(ctx, *best, q, func(ctx context.Context, tx asker) (int, error) { return best.level(ctx, tx, q) })
	return b, s.explain("read", err)
}

// Windows gives the dirty metric over all windows that are kept, the shortest first. Step is left out of account: windows must not
// be added up, so that only those come that were not thinned. It may be empty.
func (s *Store) Windows(ctx context.Context, uuid string, q Query) (sample.Windows, error) {
	list, err := s.list(ctx, uuid, string(sample.MetricDirty))
	if err != nil {
		return nil, s.explain("read", err)
	}
	var out sample.Windows
	for _, k := range list {
		if !k.windows {
			continue
		}
		ser, err := s.band(ctx, k, q, func(context.Context, asker) (int, error) { return 0, nil })
		if err != nil {
			return nil, s.explain("read", err)
		}
		if ser.Mean.Known() > 0 {
			out = append(out, ser.Mean)
		}
	}
	return out, nil
}

// list gives the series of a guest, or all; of a metric, or all. Shorter steps come first.
func (s *Store) list(ctx context.Context, uuid, metric string) ([]kept, error) {
	rows, err := s.db.QueryContext(ctx, "SELECT s.id, metric, windows, unit, step, origin, newest FROM series s JOIN guests g ON g.id = s.guest "+
		"WHERE (?1 = '' OR g.uuid = ?1) AND (?2 = '' OR metric = ?2) ORDER BY metric, windows, step", uuid, metric)
	if err != nil {
		return nil, err
	}
	return collect(rows, func(r *sql.Rows) (k kept, err error) {
		return k, r.Scan(&k.id, &k.metric, &k.windows, &k.unit, &k.step, &k.origin, &k.newest)
	})
}

// band reads the level that choose says, all of it as it is at one moment.
func (s *Store) band(ctx context.Context, k kept, q Query, choose func(context.Context, asker) (int, error)) (Band, error) {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return Band{}, err
	}
	defer tx.Rollback() //nolint:errcheck // nothing is written
	level, err := choose(ctx, tx)
	if err != nil {
		return Band{}, err
	}
	return k.fill(ctx, tx, level, q)
}

// level is the one with the longest steps that will do, or a longer one if some of what is asked for is in that only.
func (k kept) level(ctx context.Context, tx asker, q Query) (int, error) {
	r := ratios(k.step)
	best, step, per := 0, k.step, int64(1)
	for l := 1; l < levels; l++ {
		step *= time.Duration(r[l])
		per *= r[l]
		if step <= q.Step {
			best = l
		}
		has, err := k.has(ctx, tx, l, per, q)
		if err != nil {
			return 0, err
		}
		if has {
			best = l
		}
	}
	return best, nil
}

// has is whether a level, each slot of which is so many of level 0, has some of what is asked for.
func (k kept) has(ctx context.Context, tx asker, level int, per int64, q Query) (bool, error) {
	lo, hi := k.bounds(q)
	found, err := blocksOf(ctx, tx, "WHERE series = ? AND level = ? AND block BETWEEN ? AND ? ORDER BY block DESC LIMIT 3",
		k.id, level, floorDiv(lo, per*slots), floorDiv(hi-1, per*slots))
	for _, f := range found {
		for i, c := range f.b {
			if slot := f.n*slots + int64(i); c.known() && (slot+1)*per > lo && slot*per < hi {
				return true, err
			}
		}
	}
	return false, err
}

// bounds are the slots of level 0 that are asked for, hi not included; wide ones where there is no bound.
func (k kept) bounds(q Query) (lo, hi int64) {
	lo, hi = k.slot(math.MinInt64/2), k.newest+1
	if !q.From.IsZero() {
		lo = k.slot(q.From.UnixNano())
	}
	if !q.To.IsZero() {
		hi = min(hi, k.slot(q.To.UnixNano()-1)+1)
	}
	return lo, hi
}

// fill reads a level of a series, and what of it still is in those below.
func (k kept) fill(ctx context.Context, tx asker, level int, q Query) (Band, error) {
	r := ratios(k.step)
	lo, hi := k.bounds(q)
	per := int64(1) // slots of level 0 in one of this level
	at := map[int64]*block{}
	for l := range level + 1 {
		per *= r[l]
		below := at
		at = map[int64]*block{}
		found, err := blocksOf(ctx, tx, "WHERE series = ? AND level = ? AND block BETWEEN ? AND ?", k.id, l, floorDiv(lo, per*slots), floorDiv(hi-1, per*slots))
		if err != nil {
			return Band{}, err
		}
		for _, f := range found {
			at[f.n] = f.b
		}
		for n, b := range below {
			into := floorDiv(n*slots/r[l], slots)
			if at[into] == nil {
				at[into] = emptyBlock()
			}
			at[into].merge(into, n, b, r[l])
		}
	}
	return k.lay(at, level, per, lo, hi)
}

// lay puts blocks side by side, as far as they are asked for.
func (k kept) lay(at map[int64]*block, level int, per, lo, hi int64) (Band, error) {
	each := func(do func(slot int64, c cell)) {
		for n, b := range at {
			for i, c := range b {
				if slot := n*slots + int64(i); c.known() && (slot+1)*per > lo && slot*per < hi {
					do(slot, c)
				}
			}
		}
	}
	first, last := int64(math.MaxInt64), int64(math.MinInt64)
	each(func(slot int64, _ cell) { first, last = min(first, slot), max(last, slot) })
	if first > last {
		return k.blank(0, level, per, 0), nil
	}
	if last-first >= sample.MaxSamples {
		return Band{}, fmt.Errorf("%s: %w; ask for less time or longer steps", k.metric, sample.ErrTooLong)
	}
	b := k.blank(first, level, per, int(last-first+1))
	each(func(slot int64, c cell) {
		b.Min.Values[slot-first], b.Mean.Values[slot-first], b.Max.Values[slot-first] = c.min, c.mean, c.max
	})
	return b, nil
}

// blank is a band of n steps in which all is missing. At level 0 its series share their values.
func (k kept) blank(first int64, level int, per int64, n int) Band {
	one := func() sample.Series {
		s := sample.Series{Name: k.metric, Unit: k.unit, Start: k.at(first * per), Step: k.step * time.Duration(per), Values: make([]float64, n)}
		for i := range s.Values {
			s.Values[i] = math.NaN()
		}
		return s
	}
	if level == 0 {
		s := one()
		return Band{s, s, s}
	}
	return Band{one(), one(), one()}
}
