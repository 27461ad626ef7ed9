package migrate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// publish shows where the migration is, to the caller and to others through the journal.
func (r *run) publish(note string) {
	p := Progress{Migration: r.entry.ID, Domain: r.req.Domain, Time: time.Now(), Phase: r.machine.Phase(), Owner: r.machine.Owner(), Note: note}
	r.est.Fill(&p)
	r.show(p)
}

func (r *run) show(p Progress) {
	if r.log != nil {
		if err := r.log.Progress(context.Background(), p); err != nil {
			r.c.cfg.Log.Warn("progress", "migration", r.entry.ID, "err", err)
		}
	}
	r.c.cfg.Progress(p)
}

// result closes the journal's record, builds the report and says what came of it.
func (r *run) result(end End) (Report, error) {
	now := time.Now()
	err := r.failure(end)
	if r.detached {
		return Report{Schema: ReportSchema, Migration: r.entry.ID, Domain: r.req.Domain, Source: r.entry.Source, Dest: r.entry.Dest,
			Engine: r.entry.Engine, Strategy: r.entry.Params.Strategy, Owner: end.Owner}, err
	}
	report := r.rec.report(r.entry, end, err, now)
	if r.log != nil {
		r.write(r.lastRecord(end))
		if jerr := r.log.End(context.Background(), report, end.Final); jerr != nil {
			r.c.cfg.Log.Error("journal the report", "migration", r.entry.ID, "err", jerr)
			report.Notes = append(report.Notes, fmt.Sprintf("the report could not be kept in the journal: %v", jerr))
		}
	}
	if r.est != nil {
		r.lastProgress(end, now)
	}
	return report, err
}

func (r *run) lastRecord(end End) Record {
	rec := r.machine.Record()
	rec.Step, rec.Outcome, rec.Final, rec.Owner, rec.Reason = 0, end.Outcome, end.Final, end.Owner, end.Reason
	if end.Final {
		rec.Phase = PhaseEnded
	}
	return rec
}

func (r *run) lastProgress(end End, now time.Time) {
	p := Progress{Migration: r.entry.ID, Domain: r.req.Domain, Time: now, Phase: r.machine.Phase(), Owner: end.Owner, Outcome: end.Outcome}
	if end.Outcome == OutcomeCompleted {
		r.est.Complete()
		p.Phase = PhaseEnded
	}
	r.est.Fill(&p)
	if end.Outcome != OutcomeCompleted {
		p.ETAMS = nil
	}
	r.show(p)
}

// failure is the error that Migrate and Recover return for an end: one OpError with phase, owner, cause and fix.
func (r *run) failure(end End) error {
	if end.Outcome == OutcomeCompleted {
		if r.cause != nil && r.cause != errLeft { // such as a guest that an I/O error stopped as soon as it had arrived
			r.rec.note(fmt.Sprintf("on the way there: %v", r.cause))
		}
		return nil
	}
	if end.Outcome == OutcomeCancelled && ClassOf(r.cause) == ClassCancelled {
		r.cause = nil // that a cancelled step was cancelled is no cause
	}
	e := &OpError{Op: "migrate " + r.req.Domain, Phase: r.causePhase, Owner: end.Owner, Fix: FixOf(r.cause)}
	var inner *OpError
	if errors.As(r.cause, &inner) {
		e.Op, e.Side = inner.Op, inner.Side
	}
	fix, sentinel := r.verdict(end)
	if own := FixOf(r.cause); fix != "" && own != "" && ClassOf(r.cause) == ClassNotSupported && !strings.Contains(own, fix) {
		fix = own + "; then " + fix
	}
	if fix != "" {
		e.Fix = fix
	}
	e.Err = joinCause(sentinel, r.innerCause(), end)
	if e.Phase == 0 {
		e.Phase = r.machine.Phase()
	}
	return e
}

// verdict is the sentinel of an end and the way on, where the end has one of its own.
func (r *run) verdict(end End) (fix string, sentinel error) {
	again := "vmmigrate recover " + r.entry.ID
	switch {
	case r.detached:
		return again + " attaches to it again", ErrDetached
	case end.Outcome == OutcomePaused:
		return again, ErrPaused
	case end.Outcome == OutcomeUnknown:
		return again + " shows both ends and lets you decide", ErrOwnerUnknown
	case end.Owner == OwnerSource && end.Runs != SideSource && !end.Final:
		return again, ErrNotUndone
	case end.Owner == OwnerDestination && !end.Final:
		return again, ErrNotReleased
	case end.Reason == ReasonTimeLimit:
		return "allow more time, or a strategy that ends with post-copy (hybrid)", ErrTimeLimit
	case end.Reason == ReasonCancelled:
		return "", ErrCancelled
	}
	return "", nil
}

// innerCause strips the OpError whose op and side the outer error takes over.
func (r *run) innerCause() error {
	var inner *OpError
	if errors.As(r.cause, &inner) && inner.Err != nil && error(inner) == r.cause {
		return inner.Err
	}
	return r.cause
}

// joinCause puts the verdict before the cause, each said once.
func joinCause(sentinel, cause error, end End) error {
	if end.Plan != nil && sentinel != nil && (end.Plan.Kind == PlanUnknown || end.Plan.Kind == PlanLater) {
		sentinel = fmt.Errorf("%w (%s)", sentinel, end.Plan.Why)
	}
	switch {
	case sentinel == nil && cause == nil:
		if end.Plan != nil {
			return errors.New(end.Plan.Why)
		}
		return errors.New("the migration did not complete")
	case sentinel == nil:
		return cause
	case cause == nil, ctxEnded(cause):
		return sentinel
	}
	return fmt.Errorf("%w: %w", sentinel, cause)
}

// ExitCode is the exit code that the command line promises for what Migrate or Recover returned.
//
//	0 done · 1 other failure · 3 blocked by check · 4 failed or cancelled, the source runs · 5 time limit reached, the
//	source runs · 6 paused, or left behind after the commit, recoverable · 7 owner unknown
func ExitCode(r Report, err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, ErrDetached), r.Outcome == OutcomePaused:
		return 6
	case r.Outcome == OutcomeUnknown, r.Owner == OwnerUnknown:
		return 7
	case r.Owner != OwnerSource, errors.Is(err, ErrNotUndone), errors.Is(err, ErrNotBegun):
		return 1
	case errors.Is(err, ErrBlocked):
		return 3
	case errors.Is(err, ErrTimeLimit):
		return 5
	}
	return 4
}
