package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/journal"
)

// waitEvery is how often a wait looks for requests.
const waitEvery = time.Second

// adviser says when a migration is to begin, as things stand, and why. It is asked again and again; a start that is not after
// now means at once.
type adviser interface {
	advise(ctx context.Context, now time.Time) (start time.Time, why string, err error)
}

// appointment is a time that the user gave.
type appointment time.Time

func (a appointment) advise(context.Context, time.Time) (time.Time, string, error) {
	return time.Time(a), "as asked", nil
}

// waitFor waits for the moment that an order asks for. Where the order leaves the strategy open, it becomes the advised one.
func waitFor(ctx context.Context, db *journal.Journal, o *order, out *emitter, log *slog.Logger) (release func(), err error) {
	a, err := adviserFor(ctx, db, *o, out, log)
	if err != nil {
		return func() {}, err
	}
	w := &waiter{db: db, o: *o, advice: a, log: log, now: time.Now, every: waitEvery, tell: func(w journal.Wait) { out.emit(line{Wait: &w}) }}
	release, err = w.wait(ctx)
	if c, ok := a.(*cyclic); ok && o.Params.Strategy == migrate.StrategyAuto && c.advice.Way.Strategy != "" {
		o.Params.Strategy = migrate.Strategy(c.advice.Way.Strategy)
	}
	return release, err
}

// adviserFor looks at both ends, and says what forbids the migration as things stand before anything is waited for.
func adviserFor(ctx context.Context, db *journal.Journal, o order, out *emitter, log *slog.Logger) (adviser, error) {
	if o.Waited && !o.When.Cycle {
		return appointment(o.When.At), nil // it was looked at
	}
	hosts, res, _, err := look(ctx, o, log)
	defer hosts.close()
	if err != nil || res.Blocked() {
		out.emit(line{Check: checkedOf(res)})
		return nil, errors.Join(err, res.Err())
	}
	if o.When.Cycle {
		return cyclicOf(ctx, db, o, hosts, res)
	}
	return appointment(o.When.At), nil
}

// waiter is a coordinator's process before its migration begins. Nothing is held of either host meanwhile.
type waiter struct {
	db     *journal.Journal
	o      order
	advice adviser
	tell   func(journal.Wait)
	log    *slog.Logger
	now    func() time.Time
	every  time.Duration
}

// wait returns when the migration is to begin, or with an error that says why it is not. release takes the wait out of the
// journal, once the migration is in there; it is never nil.
func (w *waiter) wait(ctx context.Context) (release func(), err error) {
	h, err := w.open(ctx)
	if errors.Is(err, migrate.ErrBusy) {
		err = &migrate.OpError{Op: "take the guest", Side: migrate.SideCoordinator, Owner: migrate.OwnerSource, Err: fmt.Errorf("%w: %w", migrate.ErrBlocked, err), Fix: migrate.FixOf(err)}
	}
	if err != nil {
		return func() {}, err
	}
	end := func() {
		if err := errors.Join(h.End(context.WithoutCancel(ctx)), h.Close()); err != nil {
			w.log.Warn("end a wait", "migration", w.o.ID, "err", err)
		}
	}
	if err := w.until(ctx, h); err != nil {
		end()
		return func() {}, err
	}
	return end, nil
}

// open notes the wait, or takes up one whose process is gone.
func (w *waiter) open(ctx context.Context) (*journal.Waiting, error) {
	if w.o.Waited {
		_, h, err := w.db.AttachWait(ctx, w.o.ID)
		return h, err
	}
	raw, err := json.Marshal(w.o)
	if err != nil {
		return nil, err
	}
	return w.db.BeginWait(ctx, journal.Wait{ID: w.o.ID, Domain: w.o.Domain, Source: w.o.Source, Dest: w.o.Dest, Order: raw, Since: w.now(),
		Start: w.o.When.At, Deadline: w.o.When.Deadline})
}

func (w *waiter) until(ctx context.Context, h *journal.Waiting) error {
	tick := time.NewTicker(w.every)
	defer tick.Stop()
	told := journal.Wait{ID: w.o.ID, Domain: w.o.Domain, Source: w.o.Source, Dest: w.o.Dest, Deadline: w.o.When.Deadline, Alive: true}
	for {
		start, why, err := w.advice.advise(ctx, w.now())
		if err != nil { // what is known is enough to go on; the deadline holds in any case
			w.log.Warn("see when to begin", "migration", w.o.ID, "err", err)
			start, why = orTime(told.Start, w.now()), fmt.Sprintf("nothing new is known: %v", err)
		}
		if !start.Equal(told.Start) || why != told.Why {
			told.Start, told.Why = start, why
			if err := h.Plan(ctx, start, why); err != nil {
				return err
			}
			w.tell(told)
		}
		cancel, hurry, err := h.Asked(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			return err
		case cancel || ctx.Err() != nil:
			return migrate.Fail("wait for the moment to begin", migrate.SideCoordinator, migrate.ErrCancelled, "")
		case hurry || !start.After(w.now()):
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

func orTime(t, other time.Time) time.Time {
	if t.IsZero() {
		return other
	}
	return t
}
