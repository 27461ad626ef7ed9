package migrate

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Inspection is how a migration stands: what the journal says, what both hosts answer, and what recover would do.
type Inspection struct {
	Saved Saved `json:"saved"`
	Ends  Ends  `json:"-"`
	// Plan is what Recover would do first.
	Plan Plan `json:"plan"`
}

// Inspect asks both ends about a migration and changes nothing.
func (c *Coordinator) Inspect(ctx context.Context, id string) (Inspection, error) {
	saved, err := c.cfg.Journal.Load(ctx, id)
	if err != nil {
		return Inspection{}, err
	}
	r := c.resumeRun(saved)
	defer r.close()
	if err := r.dialBoth(ctx); err != nil {
		return Inspection{}, err
	}
	ends := r.hosts.ask(ctx, r.sourceName(), r.destName())
	return Inspection{Saved: saved, Ends: ends, Plan: Decide(r.machine.evidence(ends))}, nil
}

// Recover takes over a migration whose coordinator is gone and finishes it, or undoes it, whichever is safe by what both
// ends answer. It attaches to one that is still under way and waits for its end. A migration that has ended is left alone.
//
// Where the facts allow no decision nobody is resumed, and the error wraps ErrOwnerUnknown, unless choice is one of the
// plan's Choices: the operator looked at both hosts and answers for it.
//
// Hosts that cannot be reached are taken for silent, not for gone.
func (c *Coordinator) Recover(ctx context.Context, id string, choice Choice) (Report, error) {
	if c.cfg.Dial == nil || c.cfg.Engine == nil {
		return Report{}, errors.New("a coordinator that recovers needs Dial and Engine")
	}
	saved, log, err := c.cfg.Journal.Attach(ctx, id)
	if err != nil {
		return Report{}, err
	}
	r := c.resumeRun(saved)
	r.log = log
	defer r.close()
	if saved.Last.Final {
		return nothingToRecover(saved)
	}
	if r.req.Engine, err = c.cfg.Engine(saved.Entry.Engine); err != nil {
		return Report{}, Fail("recover", SideCoordinator, err, "")
	}
	if err := r.dialBoth(ctx); err != nil {
		return Report{}, err
	}
	if err := r.order(ctx, choice); err != nil {
		return Report{}, err
	}
	r.cause, r.causePhase = errLeft, saved.Last.Phase
	return r.drive(ctx)
}

// errLeft is the cause of a migration that is taken back by a recovery.
var errLeft = errors.New("its coordinator ended before the migration did")

func nothingToRecover(s Saved) (Report, error) {
	if s.Report != nil {
		return *s.Report, nil
	}
	return Report{}, fmt.Errorf("migration %s ended as %s, and its report was not kept", s.Entry.ID, s.Last.Outcome)
}

// resumeRun is a run that goes on from the journal.
func (c *Coordinator) resumeRun(s Saved) *run {
	r := c.newRun(Request{ID: s.Entry.ID, Domain: s.Entry.Domain, EngineReason: s.Entry.EngineReason, Params: s.Entry.Params})
	r.entry = s.Entry
	r.rec.began = s.Entry.Started
	r.images, r.late = s.Last.Images, s.Last.Committed
	if s.Progress != nil {
		r.percent = s.Progress.Percent
	}
	if r.committed = s.Last.CommittedAt; r.committed.IsZero() {
		r.committed = s.Last.At
	}
	stale := s.Last.Committed && time.Since(r.committed) > c.cfg.Limits.Stale
	r.machine = NewRecovery(r.machineConfig(), s.Last, stale)
	return r
}

// dialBoth connects to both hosts as far as they can be reached.
func (r *run) dialBoth(ctx context.Context) error {
	if r.c.cfg.Dial == nil {
		return errors.New("a coordinator that asks both ends needs Dial")
	}
	r.hosts.source = r.dialOrSilent(ctx, SideSource, r.entry.Source)
	r.hosts.dest = r.dialOrSilent(ctx, SideDestination, r.entry.Dest)
	return ctx.Err()
}

func (r *run) dialOrSilent(ctx context.Context, s Side, uri string) Host {
	h, err := r.hosts.dialAnew(ctx, uri)
	if err != nil {
		r.obs.Note(fmt.Sprintf("no connection to the %s: %v", s, err))
		if !errors.Is(err, ErrNoDomain) { // bare QEMU: no process, no guest
			err = fmt.Errorf("%w: %w", ErrLinkLost, err)
		}
		return silentHost{uri: uri, err: err}
	}
	r.hosts.opened = append(r.hosts.opened, h)
	return h
}

// order takes an operator's choice, if the facts leave it to him, and keeps it in the journal.
func (r *run) order(ctx context.Context, c Choice) error {
	if c == ChoiceNone {
		return nil
	}
	ends := r.hosts.ask(ctx, r.sourceName(), r.destName())
	plan := Decide(r.machine.evidence(ends))
	if !plan.Offers(c) {
		return &OpError{Op: fmt.Sprintf("recover by choosing the %s", c), Side: SideCoordinator, Owner: plan.Owner,
			Err: fmt.Errorf("the facts do not leave that choice: %s", plan.Why), Fix: "vmmigrate recover " + r.entry.ID + " without a choice"}
	}
	rec := r.stamp(r.machine.Record())
	rec.Note = "the operator chose the " + string(c)
	if err := r.log.Write(ctx, rec); err != nil {
		return Fail("write the choice", SideCoordinator, err, "")
	}
	r.obs.Note(rec.Note)
	r.chosen = true
	r.machine = r.machine.Order(c)
	return nil
}

// silentHost stands for a host that could not be reached.
type silentHost struct {
	uri string
	err error
}

func (h silentHost) URI() string                              { return h.uri }
func (h silentHost) Facts(context.Context) (HostFacts, error) { return HostFacts{}, h.err }
func (h silentHost) Domain(context.Context, string) (DomainFacts, error) {
	return DomainFacts{}, h.err
}
func (h silentHost) State(context.Context, string) (GuestState, error) { return GuestState{}, h.err }
func (h silentHost) Close() error                                      { return nil }
