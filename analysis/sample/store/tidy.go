package store

import (
	"context"
	"database/sql"
	"time"
)

// perStep is how many blocks are thinned in one transaction: writers wait for it, readers for nothing.
const perStep = 64

// Tidy thins what has become old, forgets what is older still, and gives room that is free back to the file system: all in short
// transactions, so that a writer never waits for long. It is for now and then, such as every few minutes.
func (s *Store) Tidy(ctx context.Context) error {
	if err := s.thinAll(ctx, 1); err != nil {
		return s.explain("thin", err)
	}
	if err := s.shrink(ctx); err != nil {
		return s.explain("make room for", err)
	}
	return s.explain("give back the room of", s.giveBack(ctx))
}

// thinAll thins all series, each level kept for a part of its time.
func (s *Store) thinAll(ctx context.Context, part time.Duration) error {
	all, err := s.list(ctx, "", "")
	if err != nil {
		return err
	}
	for _, k := range all {
		for level := range levels {
			for more := true; more; {
				if more, err = s.thin(ctx, k, level, part); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// keep is how long a level of a series is kept. Where levels have the same step the first one lasts as long as all of them:
// thinning would lose precision and gain nothing.
func (s *Store) keep(r [levels]int64, level int) time.Duration {
	d := s.o.Keep[level]
	for l := level + 1; l < levels && r[l] == 1; l++ {
		d = max(d, s.o.Keep[l])
	}
	return d
}

// thin moves some blocks of a level that are old enough into the next one, or away from the last. more: there may be others.
func (s *Store) thin(ctx context.Context, k kept, level int, part time.Duration) (more bool, err error) {
	r := ratios(k.step)
	step := int64(k.step)
	for l := 1; l <= level; l++ {
		step *= r[l]
	}
	end := (k.newest + 1) * int64(k.step)
	cut := floorDiv(floorDiv(end-int64(s.keep(r, level)/part), step), slots)
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return false, err
	}
	defer tx.Rollback() //nolint:errcheck // no effect after Commit
	old, err := blocksOf(ctx, tx, "WHERE series = ? AND level = ? AND block < ? ORDER BY block LIMIT ?", k.id, level, cut, perStep)
	if err != nil || len(old) == 0 {
		return false, err
	}
	if level+1 < levels {
		if err := merge(ctx, tx, k.id, level+1, r[level+1], old); err != nil {
			return false, err
		}
	}
	if _, err := tx.ExecContext(ctx, "DELETE FROM blocks WHERE series = ? AND level = ? AND block <= ?", k.id, level, old[len(old)-1].n); err != nil {
		return false, err
	}
	return len(old) == perStep, tx.Commit()
}

// numbered is a block and where it is.
type numbered struct {
	level int
	n     int64
	b     *block
}

func blocksOf(ctx context.Context, q asker, where string, args ...any) ([]numbered, error) {
	rows, err := q.QueryContext(ctx, "SELECT level, block, data FROM blocks "+where, args...)
	if err != nil {
		return nil, err
	}
	return collect(rows, func(r *sql.Rows) (x numbered, err error) {
		var data []byte
		if err := r.Scan(&x.level, &x.n, &data); err != nil {
			return x, err
		}
		x.b, err = decode(x.level, data)
		return x, err
	})
}

// merge puts blocks, in order, into those of the level above.
func merge(ctx context.Context, tx *sql.Tx, series int64, level int, ratio int64, old []numbered) error {
	var into *block
	var at int64
	flush := func() error {
		if into == nil {
			return nil
		}
		return save(ctx, tx, series, level, at, into)
	}
	for _, o := range old {
		if n := floorDiv(o.n*slots/ratio, slots); into == nil || n != at {
			err := flush()
			if err == nil {
				at = n
				into, err = load(ctx, tx, series, level, n)
			}
			if err != nil {
				return err
			}
		}
		into.merge(at, o.n, o.b, ratio)
	}
	return flush()
}

// shrink halves the time for which everything is kept until the file fits. What is left after that are many guests, of whom those
// that were not seen for longest go.
func (s *Store) shrink(ctx context.Context) error {
	const enough, target = 0.95, 0.85
	used, err := s.used(ctx)
	if err != nil || float64(used) <= enough*float64(s.o.MaxBytes) {
		return err
	}
	const hardest = 256
	for part := time.Duration(1); float64(used) > target*float64(s.o.MaxBytes); part *= 2 {
		if part <= hardest {
			err = s.thinAll(ctx, part)
		} else {
			_, err = s.db.ExecContext(ctx, "DELETE FROM guests WHERE id IN (SELECT guest FROM series GROUP BY guest ORDER BY max(newest * step + origin) LIMIT 1)")
		}
		if err != nil {
			return err
		}
		if part > hardest {
			part = hardest // it is doubled above
		}
		if used, err = s.used(ctx); err != nil {
			return err
		}
		if n, err := s.count(ctx); err != nil || n == 0 {
			return err
		}
	}
	return s.giveBack(ctx)
}

func (s *Store) count(ctx context.Context) (n int, err error) {
	return n, s.db.QueryRowContext(ctx, "SELECT count(*) FROM guests").Scan(&n)
}

// used is how many bytes of the file hold something.
func (s *Store) used(ctx context.Context) (int64, error) {
	var pages, free, size int64
	err := s.db.QueryRowContext(ctx, "SELECT (SELECT page_count FROM pragma_page_count), (SELECT freelist_count FROM pragma_freelist_count), (SELECT page_size FROM pragma_page_size)").
		Scan(&pages, &free, &size)
	return (pages - free) * size, err
}

// giveBack returns free pages to the file system, 512 at a time.
func (s *Store) giveBack(ctx context.Context) error {
	for before := int64(-1); ; {
		var free int64
		if err := s.db.QueryRowContext(ctx, "SELECT freelist_count FROM pragma_freelist_count").Scan(&free); err != nil {
			return err
		}
		if free == 0 || free == before {
			_, err := s.db.ExecContext(ctx, "PRAGMA wal_checkpoint(PASSIVE)")
			return err
		}
		before = free
		rows, err := s.db.QueryContext(ctx, "PRAGMA incremental_vacuum(512)")
		if err != nil {
			return err
		}
		if _, err := collect(rows, func(*sql.Rows) (struct{}, error) { return struct{}{}, nil }); err != nil {
			return err
		}
	}
}

// collect reads all rows and closes them.
func collect[T any](rows *sql.Rows, scan func(*sql.Rows) (T, error)) ([]T, error) {
	defer rows.Close()
	var out []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Err()
}
