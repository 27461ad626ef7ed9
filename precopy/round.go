package precopy

import (
	"context"
	"fmt"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// round copies what is left in slices, with a harvest behind each, and closes the books of the round whether it failed
// or not.
func (r *Rounds) round(ctx context.Context, leave bool, clock func() time.Duration) error {
	dirtied, began := ram.NewSet(r.cfg.Blocks), time.Now()
	err := r.copy(ctx, r.queue(leave), dirtied, clock)
	r.history.add(dirtied)
	r.current.Dirtied, r.current.DirtyRate = dirtied.Bytes(r.cfg.Blocks), 0
	if took := time.Since(began); took > 0 {
		r.current.DirtyRate = int64(float64(r.current.Dirtied) / took.Seconds())
	}
	return err
}

// copy works off the queue. A failed harvest and the end of the time end it early.
func (r *Rounds) copy(ctx context.Context, q *queue, dirtied ram.Set, clock func() time.Duration) error {
	for {
		if slice := q.next(r.slice); slice != nil {
			if err := r.fetch(ctx, slice); err != nil {
				return err
			}
		}
		if err := r.harvest(ctx, dirtied); err != nil {
			return err
		}
		q.drop(dirtied)
		if q.empty() || r.failed != nil || r.decider.TimeUp(clock()) {
			return nil
		}
	}
}

// fetch brings one slice over. What was on its way when it fails stays left.
func (r *Rounds) fetch(ctx context.Context, slice ram.Set) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	got, err := r.cfg.Fetcher.Fetch(ctx, slice)
	r.current.Fetched.add(got)
	r.current.Slices++
	if err != nil {
		return fmt.Errorf("pre-copy: round %d: fetch: %w", r.current.Number, err)
	}
	r.left.AndNot(slice)
	r.pace(slice.Bytes(r.cfg.Blocks), got.Took)
	return nil
}

// harvest adds what was written to what is left, and to dirtied if that is not nil. When the harvester fails everything
// is left and r.failed says why; the error is that of ctx alone.
func (r *Rounds) harvest(ctx context.Context, dirtied ram.Set) error {
	first := !r.harvested
	r.harvested = true
	set, took, err := r.cfg.Harvester.Harvest(ctx)
	r.current.Harvest = took
	if err == nil {
		err = set.Fits(r.cfg.Blocks)
	}
	r.failed = err
	switch {
	case err != nil:
		r.left.Fill()
		r.cfg.Log.Warn("harvest failed; every page counts as dirty", "round", r.current.Number, "error", err)
		return ctx.Err()
	case first:
		r.left = set.Clone()
	default:
		r.left.Or(set)
	}
	if dirtied != nil {
		dirtied.Or(set)
	}
	return nil
}

// pace sets the next slice after one of so many bytes: what is fetched in a slice's time, but no more than four times as
// much as the last, since a stretch of zero pages goes much faster than what follows it.
func (r *Rounds) pace(bytes int64, took time.Duration) {
	if bytes < tellingBytes && took < tellingTime || took <= 0 {
		return
	}
	speed := float64(bytes) / took.Seconds()
	r.slice = max(int64(min(speed*r.cfg.Slice.Seconds(), 4*float64(r.slice))), tellingBytes)
}

// queue is what a round has still to fetch: groups that are fetched one after the other, each in parts, best first.
type queue struct {
	blocks []ram.Block
	groups [][]ram.Set
}

// queue sorts what is left: never or not lately written, written lately, and, unless they are left out, volatile pages.
func (r *Rounds) queue(leave bool) *queue {
	cold, warm, volatile := r.left.Clone(), r.left.Clone(), r.left.Clone()
	cold.AndNot(r.history.touched)
	warm.And(r.history.touched)
	warm.AndNot(r.history.volatile)
	volatile.And(r.history.volatile)
	q := &queue{blocks: r.cfg.Blocks, groups: [][]ram.Set{{cold, warm}}}
	if !leave {
		q.groups = append(q.groups, []ram.Set{volatile})
	}
	return q
}

func (q *queue) empty() bool {
	for _, g := range q.groups {
		for _, part := range g {
			if !part.Empty() {
				return false
			}
		}
	}
	return true
}

// drop takes out what has to wait for the next round.
func (q *queue) drop(pages ram.Set) {
	for _, g := range q.groups {
		for _, part := range g {
			part.AndNot(pages)
		}
	}
}

// next takes pages of so many bytes, at least one, out of the first group that has any; nil when there are none.
func (q *queue) next(budget int64) ram.Set {
	for _, g := range q.groups {
		out, taken := ram.NewSet(q.blocks), false
		for _, part := range g {
			for b, pages := range part {
				n := move(pages, out[b], budget/q.blocks[b].PageSize, !taken && budget > 0)
				taken = taken || n > 0
				budget -= n * q.blocks[b].PageSize
			}
		}
		if taken {
			return out
		}
	}
	return nil
}

// move moves up to limit pages, lowest first; one at least where force says so.
func move(from, to *ram.Bitmap, limit int64, force bool) int64 {
	if force {
		limit = max(limit, 1)
	}
	var n int64
	for lo, hi := range from.Runs() {
		if n >= limit {
			break
		}
		hi = int(min(int64(hi), int64(lo)+limit-n))
		to.SetRange(lo, hi)
		from.ClearRange(lo, hi)
		n += int64(hi - lo)
	}
	return n
}
