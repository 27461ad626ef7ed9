package migrate

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"
)

// Config is what a Coordinator needs; only Journal is required.
type Config struct {
	Journal Journal
	// Log gets what a developer wants to know; nil discards it.
	Log *slog.Logger
	// Progress is called from one goroutine at a time, several times a second at most; it must not block for long.
	Progress func(Progress)
	// Dial opens a new connection to the host of that URI, for questions after a connection was lost. The coordinator
	// closes it. Nil: the hosts at hand are asked again. Recover needs it.
	Dial func(ctx context.Context, uri string) (Host, error)
	// Engine gives the engine of that name; Recover needs it.
	Engine func(name EngineName) (Engine, error)
	// RemoveImages removes images that a migration made at a destination that the guest did not reach. What is gone is no
	// error. Nil: they are left, and the report names them.
	RemoveImages func(ctx context.Context, dest Host) (ImageRemover, error)
	// Limits bound the single steps; zero fields have defaults.
	Limits Limits
	// Park stops the coordinator at a named point, for tests that kill it there. The zero value never does.
	Park Park
}

// Limits bound what is waited for. Zero means the default.
type Limits struct {
	// Ask bounds one question to one host; default 10 s.
	Ask time.Duration
	// Cancel is how long a cancelled step may take before its context ends; default 20 s.
	Cancel time.Duration
	// Undo, Resume and Finish bound these steps; default 60 s each.
	Undo, Resume, Finish time.Duration
	// Recover is how long a paused post-copy is tried to be recovered; default 10 min.
	Recover time.Duration
	// Poll is how often a request to cancel is looked for and progress is published; default 250 ms.
	Poll time.Duration
	// Stale is the age of a commit after which a guest that is gone from the destination may have ended there by
	// itself; default 1 h.
	Stale time.Duration
}

func (l Limits) withDefaults() Limits {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&l.Ask, 10*time.Second)
	set(&l.Cancel, 20*time.Second)
	set(&l.Undo, time.Minute)
	set(&l.Resume, time.Minute)
	set(&l.Finish, time.Minute)
	set(&l.Recover, 10*time.Minute)
	set(&l.Poll, 250*time.Millisecond)
	set(&l.Stale, time.Hour)
	return l
}

// Coordinator drives migrations. It is safe for use by several goroutines, one migration each; nothing it starts
// outlives the call.
type Coordinator struct {
	cfg Config
}

// New makes a Coordinator.
func New(cfg Config) (*Coordinator, error) {
	if cfg.Journal == nil {
		return nil, errors.New("a coordinator needs a journal")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Progress == nil {
		cfg.Progress = func(Progress) {}
	}
	cfg.Limits = cfg.Limits.withDefaults()
	return &Coordinator{cfg: cfg}, nil
}

// Request is one migration to do. The hosts stay the caller's to close, after the call has returned.
type Request struct {
	// ID names the migration; empty lets the coordinator choose one.
	ID     string
	Domain string
	Source Host
	Dest   Host
	Engine Engine
	// EngineReason says why this engine or strategy was taken where the user left it open; it goes into the report.
	EngineReason string
	// Params are resolved: no "auto" is left in them.
	Params Params
	// Predicted is what was forecast, for the report. Nil has it worked out from the first figures of the copy, without ranges.
	Predicted map[Strategy]ReportPrediction
	// Check looks at both ends before anything is touched; an error that wraps ErrBlocked ends the migration. Nil: none.
	Check func(ctx context.Context) error
}

// NewID makes a name for a migration: short enough to type, and unique.
func NewID() string {
	var b [5]byte
	rand.Read(b[:]) // it never fails
	return "m-" + strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))
}

// Migrate moves a guest and returns how it ended. The report is complete also with an error, except with ErrDetached:
// what has not ended has no outcome.
//
// The error is nil if the migration completed and wraps one of the sentinels otherwise: ErrBlocked, ErrCancelled,
// ErrTimeLimit, ErrPaused, ErrOwnerUnknown, ErrNotUndone, ErrNotReleased, ErrDetached. ExitCode sorts them.
//
// When ctx ends before the commit the migration is cancelled and undone, which takes its own bounded time. When it ends
// after the commit, Migrate goes on until the destination runs the guest; then, while RAM is still being fetched, it
// stops waiting and returns ErrDetached: the migration goes on without it, and Recover attaches to it again.
func (c *Coordinator) Migrate(ctx context.Context, req Request) (Report, error) {
	if req.ID == "" {
		req.ID = NewID()
	}
	r := c.newRun(req)
	defer r.close()
	if err := r.lookAround(ctx); err != nil {
		return r.refused(err)
	}
	if err := r.open(ctx); err != nil {
		return r.refused(err)
	}
	r.machine = NewMachine(r.machineConfig())
	return r.drive(ctx)
}

// lookAround learns what the journal and the report need to know before anything is done. Where a host or the domain
// cannot be read, Check explains it better.
func (r *run) lookAround(ctx context.Context) error {
	facts, err := r.req.Source.Facts(ctx)
	if err == nil {
		r.domain, err = r.req.Source.Domain(ctx, r.req.Domain)
	}
	if err != nil {
		if r.req.Check != nil {
			if better := r.req.Check(ctx); better != nil {
				return better
			}
		}
		return Fail("look at the guest", SideSource, err, "")
	}
	r.rec.sourceClock = clockOf(facts)
	r.entry = Entry{ID: r.req.ID, Domain: r.req.Domain, DomainUUID: r.domain.UUID, SourceHost: facts.HostUUID,
		Source: r.req.Source.URI(), Dest: r.req.Dest.URI(), Engine: r.req.Engine.Name(), EngineReason: r.req.EngineReason,
		Params: r.req.Params, Started: r.started, WasPaused: r.domain.State.Run == RunPaused, Predicted: r.req.Predicted, Coordinator: whoAmI()}
	if d, err := r.req.Dest.Facts(ctx); err == nil {
		r.rec.destClock = clockOf(d)
		r.entry.ByUUID = facts.KnowsUUIDs && d.KnowsUUIDs && r.domain.UUID != ""
		_, err := r.req.Dest.State(ctx, r.destName())
		r.entry.DestClear = errors.Is(err, ErrNoDomain)
	}
	return nil
}

// open takes the guest in the journal.
func (r *run) open(ctx context.Context) error {
	log, err := r.c.cfg.Journal.Begin(ctx, r.entry)
	if err != nil {
		return Fail("open the journal", SideCoordinator, err, "")
	}
	r.log = log
	return nil
}

// refused is the result of a migration that never began.
func (r *run) refused(err error) (Report, error) {
	end := End{Outcome: OutcomeFailed, Owner: OwnerSource, Runs: SideSource, Reason: ReasonFailed, Final: true}
	if ctxEnded(err) {
		end.Outcome, end.Reason = OutcomeCancelled, ReasonCancelled
	}
	var oe *OpError
	if errors.As(err, &oe) && oe.Owner != 0 && oe.Owner != OwnerSource { // another migration has moved it
		end.Owner, end.Runs = oe.Owner, ""
	}
	r.rec.phase(r.started, PhaseChecking)
	r.causePhase, r.cause = PhaseChecking, err
	if !errors.Is(err, ErrBlocked) && !ctxEnded(err) {
		r.cause = fmt.Errorf("%w: %w", ErrNotBegun, err)
	}
	return r.result(end)
}

func ctxEnded(err error) bool { return errors.Is(err, context.Canceled) }

func (r *run) machineConfig() MachineConfig {
	p := r.entry.Params
	after := p.CopyStorage == CopyAfter // agents fetch what was left behind, be it RAM or disks
	return MachineConfig{Postcopy: p.Strategy.Postcopy() || p.TimeoutPostcopy || after, Agents: r.entry.Engine == EngineNBD || after, Disks: after,
		Delegated: p.PeerToPeer, Suspend: p.Suspend,
		WasPaused: r.entry.WasPaused, Undefine: p.UndefineSource}
}

func whoAmI() string {
	host, err := os.Hostname()
	if err != nil {
		host = "?"
	}
	return fmt.Sprintf("%s pid %d", host, os.Getpid())
}
