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
	"github.com/vmmigrate/vmmigrate/migrate/storage"
)

// Native is the engine in which QEMU moves its own RAM.
type Native struct {
	// Log gets what a developer wants to know; nil discards it.
	Log *slog.Logger
	// Poll is the time between two readings of the figures. 0 means 100 ms.
	Poll time.Duration
	// StallAfter is how long a post-copy may move nothing before its link counts as cut. 0 means 3 s.
	StallAfter time.Duration
	// CopyStallAfter is the same before the switch, where the guest runs on and can wait longer. 0 means 10 s.
	CopyStallAfter time.Duration
	// Connect reaches agents, which make the images that the destination lacks. Nil leaves that to libvirt.
	Connect Connect
	// Undo bounds the steps that clean up after a failure or a cancellation. 0 means 30 s.
	Undo time.Duration
}

// Name is "native".
func (*Native) Name() migrate.EngineName { return migrate.EngineNative }

// Open pairs the two hosts. It fails with ErrNotSupported if one of the drivers cannot play its part.
func (n *Native) Open(_ context.Context, j migrate.Job) (migrate.Session, error) {
	src, ok := j.Source.(migrate.Source)
	if !ok {
		return nil, migrate.Fail("open the native engine", migrate.SideSource,
			fmt.Errorf("%s cannot send a guest: %w", j.Source.URI(), migrate.ErrNotSupported), "")
	}
	dst, ok := j.Dest.(migrate.Destination)
	if !ok {
		return nil, migrate.Fail("open the native engine", migrate.SideDestination,
			fmt.Errorf("%s cannot take a guest in: %w", j.Dest.URI(), migrate.ErrNotSupported), "")
	}
	if j.Sink == nil || j.Commit == nil {
		return nil, errors.New("open the native engine: the job has no sink or no commit")
	}
	s := &session{job: j, src: src, dst: dst, p: j.Params, log: n.Log, connect: n.Connect,
		poll: orDuration(n.Poll, 100*time.Millisecond), stallAfter: orDuration(n.StallAfter, 3*time.Second),
		copyStall: orDuration(n.CopyStallAfter, 10*time.Second),
		undo:      orDuration(n.Undo, 30*time.Second)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.resumed, s.switched = make(chan struct{}), make(chan struct{})
	var err error
	if s.later, err = newLater(s); err != nil {
		s.stop()
		return nil, err
	}
	if j.Params.PeerToPeer {
		peer, ok := j.Source.(migrate.PeerMigrator)
		if !ok {
			s.stop()
			return nil, migrate.Fail("open the native engine", migrate.SideSource,
				fmt.Errorf("peer-to-peer: %w", migrate.ErrNotSupported), "leave out --p2p")
		}
		return &peerSession{session: s, peer: peer}, nil
	}
	return s, nil
}

// reached tells that the session is at a named point.
func (s *session) reached(ctx context.Context, point string) {
	if s.job.Reached != nil {
		s.job.Reached(ctx, point)
	}
}

func orDuration(d, def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return d
}

// session is one migration. Its steps are called one after the other; only Cancel may come from elsewhere.
type session struct {
	job        migrate.Job
	src        migrate.Source
	dst        migrate.Destination
	p          migrate.Params
	log        *slog.Logger
	connect    Connect
	poll       time.Duration
	stallAfter time.Duration
	copyStall  time.Duration
	undo       time.Duration

	// ctx ends with Close and bounds everything the session runs in the background.
	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup

	offer  migrate.Offer
	ticket migrate.Ticket
	made   []storage.Made // images that were made at the destination
	agents []agent.Agent  // those that the session reached for images
	later  *later         // disks that come after the guest; nil if there are none

	flusher *flusher // nil where nothing is to be written out ahead of the stop

	begun, prepared bool
	// committed: the commit was asked for inside Copy; the source is not resumed by us from then on.
	committed bool
	performed bool

	mu        sync.Mutex
	cancelled bool

	resumeOnce sync.Once
	resumed    chan struct{} // closed when the destination's RESUME was seen
	switchOnce sync.Once
	switched   chan struct{} // closed when the source sends its device state: disks are over by then
	finish     *call         // the running Finish

	// heard is told of every event, if it is set; it is set before the session begins. What it keeps back nobody else
	// hears of.
	heard func(migrate.Side, migrate.GuestEvent) (keep bool)
	// roundless is set where QEMU's rounds are of no interest.
	roundless bool
}

// call is a driver call that goes on in the background while the session watches.
type call struct {
	done chan struct{}
	// err and ticket are the answer; they are read after done is closed.
	err    error
	ticket migrate.Ticket
}

// run starts fn in a goroutine that Close waits for.
func (s *session) run(fn func(ctx context.Context) error) *call {
	c := &call{done: make(chan struct{})}
	s.wg.Go(func() {
		defer close(c.done)
		c.err = fn(s.ctx)
	})
	return c
}

// Prepare opens the migration on both ends. When it fails nothing is left at the destination.
func (s *session) Prepare(ctx context.Context) error {
	if err := s.watch(ctx); err != nil {
		return err
	}
	if err := s.mapDisks(ctx); err != nil {
		return err
	}
	if err := s.disksAhead(ctx); err != nil {
		return err
	}
	offer, err := s.src.Begin(ctx, s.job.Domain, s.params())
	if err != nil {
		return migrate.Fail("begin the migration", migrate.SideSource, err, "")
	}
	s.offer, s.begun = offer, true
	if offer.Paused && s.p.Strategy.Postcopy() {
		// It writes nothing, so rounds shrink to nothing; and no RESUME would tell that it has landed.
		s.p.Strategy = migrate.StrategyPrecopy
		s.job.Sink.Note("the guest is paused: pre-copy moves it whole")
	}
	if s.later != nil {
		if s.p, err = s.later.to.OnOverlays(offer, s.p, s.later.overlays()); err != nil {
			return err
		}
		if s.p.DestinationXML != "" {
			offer.XML = s.p.DestinationXML
			s.offer = offer
		}
	}
	ticket, err := s.dst.Prepare(ctx, offer, s.params())
	if err != nil {
		return migrate.Fail("prepare the destination", migrate.SideDestination, err, "")
	}
	s.ticket, s.prepared = ticket, true
	if s.later == nil {
		return nil
	}
	return s.later.put(ctx)
}

// disksAhead prepares what the disks need before the destination's QEMU is started.
func (s *session) disksAhead(ctx context.Context) error {
	if s.later == nil {
		return s.makeMissing(ctx)
	}
	if s.p.Strategy.Postcopy() {
		return migrate.Fail("move the disks after the guest", migrate.SideCoordinator, fmt.Errorf("with QEMU's own post-copy of the RAM: %w", migrate.ErrNotSupported),
			"use --engine nbd or --strategy precopy")
	}
	if err := s.later.prepare(ctx); err != nil {
		return err
	}
	s.flusher = newFlusher(ctx, s, s.later.here, s.later.there)
	return nil
}

func (s *session) pilot() *Pilot {
	return NewPilot(PilotConfig{Strategy: s.p.Strategy, MaxDowntime: s.p.MaxDowntime, Timeout: s.p.Timeout, TimeoutPostcopy: s.p.TimeoutPostcopy})
}

// params are the job's, with the pause limited to the ramp's first step.
func (s *session) params() migrate.Params {
	p := s.p
	if p.Strategy == migrate.StrategyPrecopy || p.Strategy == migrate.StrategyHybrid {
		p.MaxDowntime = s.pilot().Downtime()
	}
	return p
}

// watch passes both ends' events on until Close. A host whose events cannot be had is noted, not fatal: the figures
// of the report suffer, not the guest.
func (s *session) watch(ctx context.Context) error {
	ends := []struct {
		side migrate.Side
		w    migrate.Watcher
		name string
	}{
		{migrate.SideSource, s.src, s.job.Domain},
		{migrate.SideDestination, s.dst, s.destName()},
	}
	for _, e := range ends {
		if err := ctx.Err(); err != nil {
			return err
		}
		watch := e.w.Watch
		if w, ok := e.w.(migrate.RoundlessWatcher); ok && s.roundless {
			watch = w.WatchRoundless
		}
		events, err := watch(s.ctx, e.name)
		if err != nil {
			s.job.Sink.Note(fmt.Sprintf("no events from the %s: %v", e.side, err))
			continue
		}
		s.wg.Go(func() { s.pump(e.side, events) })
	}
	return nil
}

func (s *session) pump(side migrate.Side, events <-chan migrate.GuestEvent) {
	for ev := range events {
		if s.heard != nil && s.heard(side, ev) {
			continue
		}
		s.job.Sink.Guest(side, ev)
		if side == migrate.SideDestination && ev.Kind == migrate.EventResume {
			s.resumeOnce.Do(func() { close(s.resumed) })
		}
		if side == migrate.SideSource && ev.Kind == migrate.EventMigration && switching(ev.Detail) {
			s.switchOnce.Do(func() { close(s.switched) })
		}
	}
}

// switching tells whether QEMU's status says that the device state is being sent.
func switching(status string) bool { return status == "device" || status == statusPostcopy }

func (s *session) destName() string {
	if s.p.DestinationName != "" {
		return s.p.DestinationName
	}
	return s.job.Domain
}

// Cancel makes a running Copy end. It is safe at any time.
func (s *session) Cancel(ctx context.Context) error {
	s.cancelling()
	return s.src.Cancel(ctx, s.job.Domain)
}

func (s *session) cancelling() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cancelled = true
}

func (s *session) wasCancelled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cancelled
}

// Close ends the watchers and waits for everything the session started. It changes nothing on either host.
func (s *session) Close() error {
	s.stop()
	s.wg.Wait()
	var errs []error
	for _, a := range s.agents {
		errs = append(errs, a.Close())
	}
	if s.later != nil {
		errs = append(errs, s.later.close())
	}
	return errors.Join(errs...)
}
