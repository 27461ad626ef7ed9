package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// NBD is the engine in which our agents move the RAM, and QEMU only its devices. It needs guests whose RAM is in shared
// files, and an agent on each host.
//
//	source's agent      tracker → harvest ┐                    ┌ fetch → RAM's file     destination's agent
//	                    NBD server  ======│= data connections =│=> NBD client, pager
//	source's QEMU  ── device state ── relay ================== relay ── gate ──> destination's QEMU
//	                                      └──── coordinator ───┘
//
// Rounds of fetching go on while they shrink. Then the guest is stopped, the last pages that were written are punched out
// at the destination, the gate opens, the guest runs there, and what is missing follows (strategy hybrid). With precopy
// what is left is fetched within the pause, with postcopy nothing is fetched before it.
type NBD struct {
	// Connect starts, or reaches, the agent of a host.
	Connect Connect
	// Log gets what a developer wants to know; nil discards it.
	Log *slog.Logger
	// Undo bounds the steps that clean up after a failure or a cancellation. 0 means 30 s.
	Undo time.Duration
	// SwitchLimit bounds the wait for the source to stand still once everything is ready, for QEMU's device state to
	// arrive, and for an agent to answer. 0 means 30 s.
	SwitchLimit time.Duration
	// IdleLimit is how long no RAM may move while it is fetched. 0 means 10 s.
	IdleLimit time.Duration
}

// Name is "nbd".
func (*NBD) Name() migrate.EngineName { return migrate.EngineNBD }

// monitoredSource is what a source's driver has to be able to do.
type monitoredSource interface {
	migrate.Source
	migrate.Monitored
	migrate.Located
}

// locatedDestination is what a destination's driver has to be able to do.
type locatedDestination interface {
	migrate.Destination
	migrate.Located
}

// Open pairs the two hosts. It fails with ErrNotSupported if one of the drivers cannot play its part.
func (n *NBD) Open(_ context.Context, j migrate.Job) (migrate.Session, error) {
	const op = "open the nbd engine"
	src, ok := j.Source.(monitoredSource)
	if !ok {
		return nil, migrate.Fail(op, migrate.SideSource, fmt.Errorf("%s cannot send a guest: %w", j.Source.URI(), migrate.ErrNotSupported), "use --engine native")
	}
	dst, ok := j.Dest.(locatedDestination)
	if !ok {
		return nil, migrate.Fail(op, migrate.SideDestination, fmt.Errorf("%s cannot take a guest in: %w", j.Dest.URI(), migrate.ErrNotSupported), "use --engine native")
	}
	if j.Sink == nil || j.Commit == nil || n.Connect == nil {
		return nil, errors.New(op + ": the job has no sink or no commit, or the engine no way to its agents")
	}
	if j.Params.PeerToPeer {
		return nil, migrate.Fail(op, migrate.SideCoordinator, fmt.Errorf("peer-to-peer: %w", migrate.ErrNotSupported), "leave out --p2p, or use --engine native")
	}
	if err := encryptsDisks(j.Params); err != nil {
		return nil, migrate.Fail(op, migrate.SideCoordinator, err, "leave out --tls, or use --engine native, whose disks are encrypted with it")
	}
	native, err := (&Native{Log: n.Log, Undo: n.Undo, Connect: n.Connect}).Open(context.Background(), j)
	if err != nil {
		return nil, err
	}
	s := &nbdSession{session: native.(*session), from: src, to: dst, strategy: j.Params.Strategy,
		switchLimit: orDuration(n.SwitchLimit, 30*time.Second), idleLimit: orDuration(n.IdleLimit, 10*time.Second), still: make(chan struct{})}
	s.p = driverParams(j.Params)
	s.heard, s.roundless = s.hear, true
	s.mirrored = newMirrored(s)
	return s, nil
}

// driverParams are the parameters for the drivers: to them it is a pre-copy of which the RAM is somebody else's care.
func driverParams(p migrate.Params) migrate.Params {
	p.Strategy, p.SharedRAM = migrate.StrategyPrecopy, true
	p.BandwidthDisk = p.DiskCap()
	p.Bandwidth, p.BandwidthPostcopy = 0, 0 // ours; QEMU's stream is small and within the pause
	p.TLS = false                           // its stream travels over the agents' own connections
	return p
}

// nbdSession is one migration. It is a native session to the drivers, with the RAM moved by agents beside it.
type nbdSession struct {
	*session
	from     monitoredSource
	to       locatedDestination
	strategy migrate.Strategy

	switchLimit time.Duration
	idleLimit   time.Duration

	srcAgent, dstAgent agent.Agent
	source             agent.Source
	dest               agent.Dest
	blocks             []ram.Block
	sourceStream       string // the unix socket that the source's agent listens on

	cancelMu  sync.Mutex
	onCancels []func()
	past      bool // the destination is let go on: it is too late to cancel

	stillOnce sync.Once
	still     chan struct{} // closed when the guest stands still on the source with its devices drained

	left       ram.Set // what the rounds left behind
	figures    figures
	pause      stopwatch
	mirrored   *mirrored // disks that agents copy before the guest goes; nil if there are none
	bareSource bool      // its driver holds QEMU's only monitor and sets QEMU up itself
	shared     bool      // the source's QEMU leaves shared RAM out
	asked      bool      // the source's driver was asked to perform
	recovered  time.Time // when paging was taken up again
	silent     bool      // an agent that was asked while the guest waited did not answer
	unheard    bool      // the destination's agent did not answer when it was to let QEMU's stream pass
	takenBack  bool      // nothing of this copy can run at the destination any more
}

// hear hears that the source's QEMU has stopped the guest and drained its devices: from then on nothing writes RAM. It
// keeps back QEMU's own rounds, which are passes over no RAM while its stream is held back: ours are what a report is about.
func (s *nbdSession) hear(side migrate.Side, ev migrate.GuestEvent) (keep bool) {
	if side == migrate.SideSource && ev.Kind == migrate.EventMigration && (ev.Detail == statusPreSwitchover || switching(ev.Detail)) {
		s.stillOnce.Do(func() { close(s.still) })
	}
	return ev.Kind == migrate.EventRound
}

const statusPreSwitchover = "pre-switchover"

// Cancel makes a running Copy end. It is safe at any time: once the destination is let go on it does nothing, for a source that
// was cancelled would run its guest again.
func (s *nbdSession) Cancel(ctx context.Context) error {
	s.cancelMu.Lock()
	if s.past {
		s.cancelMu.Unlock()
		return nil
	}
	s.session.cancelling()
	for _, f := range s.onCancels {
		f()
	}
	s.onCancels = nil
	s.cancelMu.Unlock()
	return s.session.Cancel(ctx)
}

// pastCancelling ends the time in which a cancellation is heard. It is false if there was one.
func (s *nbdSession) pastCancelling() bool {
	s.cancelMu.Lock()
	defer s.cancelMu.Unlock()
	s.past = !s.wasCancelled()
	return s.past
}

// onCancel has f called when the migration is cancelled, at once if it was already.
func (s *nbdSession) onCancel(f func()) {
	s.cancelMu.Lock()
	s.onCancels = append(s.onCancels, f)
	s.cancelMu.Unlock()
	if s.wasCancelled() {
		f()
	}
}

// Close ends the connections to the agents, too. A guest that is being paged in goes on: its agents stay.
// Of one that was taken back the source's agent is told that nobody will come for its pages, or it would wait for that.
func (s *nbdSession) Close() error {
	var errs []error
	if s.takenBack && s.source != nil {
		ctx, stop := context.WithTimeout(context.Background(), answerLimit)
		defer stop()
		if err := s.source.Close(ctx); err != nil {
			s.log.Debug("close the source's end", "err", err)
		}
	}
	for _, a := range []agent.Agent{s.srcAgent, s.dstAgent} {
		if a != nil {
			errs = append(errs, a.Close())
		}
	}
	return errors.Join(append(errs, s.session.Close())...)
}
