package migratetest

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
)

type engine struct{ w *World }

func (e engine) Name() migrate.EngineName {
	if e.w.byAgents() {
		return migrate.EngineNBD
	}
	return migrate.EngineNative
}

func (w *World) byAgents() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.agents
}

func (e engine) Open(_ context.Context, j migrate.Job) (migrate.Session, error) {
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	e.w.sessions++
	return &Session{w: e.w, Job: j, cancelled: make(chan struct{})}, nil
}

// Session is the world's migrate.Session. Its steps move the guest's states and emit the events and figures that a
// hypervisor would.
type Session struct {
	Job       migrate.Job
	w         *World
	once      sync.Once
	cancelled chan struct{}
	closed    bool
}

var _ migrate.Session = (*Session)(nil)

// Cancelled is closed when Cancel was called.
func (s *Session) Cancelled() <-chan struct{} { return s.cancelled }

// Prepare has the destination wait.
func (s *Session) Prepare(ctx context.Context) error { return s.step(ctx, migrate.StepPrepare) }

// Copy sends three rounds and stops the guest; with a post-copy strategy it commits before.
func (s *Session) Copy(ctx context.Context) error { return s.step(ctx, migrate.StepCopy) }

// Resume runs the guest on the destination.
func (s *Session) Resume(ctx context.Context) error { return s.step(ctx, migrate.StepResume) }

// Page fetches the rest.
func (s *Session) Page(ctx context.Context) error { return s.step(ctx, migrate.StepPage) }

// Recover makes the link anew.
func (s *Session) Recover(ctx context.Context) error { return s.step(ctx, migrate.StepRecover) }

// Finish removes the source's guest.
func (s *Session) Finish(ctx context.Context) error { return s.step(ctx, migrate.StepFinish) }

// Undo removes the destination's guest and runs the source's.
func (s *Session) Undo(ctx context.Context) error { return s.step(ctx, migrate.StepUndo) }

// Cancel is noted; hooks that block wait for Cancelled.
func (s *Session) Cancel(context.Context) error {
	s.once.Do(func() { close(s.cancelled) })
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.w.did("cancel session")
	return nil
}

// Close is noted.
func (s *Session) Close() error {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.closed = true
	return nil
}

func (s *Session) step(ctx context.Context, step migrate.Step) error {
	s.w.mu.Lock()
	s.w.did(step.String())
	s.w.count[step]++
	hook, n := s.w.hook, s.w.count[step]
	if s.closed {
		s.w.faults = append(s.w.faults, errors.New(step.String()+" on a closed session"))
	}
	s.w.mu.Unlock()
	if hook != nil {
		err := hook(&Call{Context: ctx, Step: step, N: n, Session: s})
		if errors.Is(err, ErrDone) {
			return nil
		}
		if err != nil && !errors.Is(err, ErrGoOn) {
			return err
		}
	}
	return s.do(ctx, step)
}

// do is what a step does when nothing goes wrong.
func (s *Session) do(ctx context.Context, step migrate.Step) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	switch step {
	case migrate.StepCopy:
		return s.copy(ctx)
	case migrate.StepResume:
		s.resume()
	case migrate.StepUndo:
		s.move(migrate.RunRunning, "")
		s.w.emit(s.Job.Sink, migrate.SideSource, migrate.EventResume, 0)
	case migrate.StepPrepare:
		s.move("-", migrate.RunIncoming)
	case migrate.StepPage:
		s.page()
	case migrate.StepRecover:
		if !s.w.byAgents() { // agents are attached, which no hypervisor sees
			s.move(migrate.RunPostcopy, migrate.RunPostcopy)
		}
	case migrate.StepFinish:
		s.move("", "-")
	}
	return nil
}

// move sets both ends; "-" leaves one as it is.
func (s *Session) move(source, dest migrate.RunState) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if dest != "-" && (dest == "" || s.w.Source.state == nil || source != migrate.RunRunning) {
		s.w.set(s.w.Dest, dest)
	}
	if source != "-" {
		s.w.set(s.w.Source, source)
	}
}

func (s *Session) copy(ctx context.Context) error {
	const total = int64(1 << 30)
	left := []int64{total / 2, total / 8, 0}
	sent := int64(0)
	for i, l := range left {
		s.w.emit(s.Job.Sink, migrate.SideSource, migrate.EventRound, i+1)
		sent += total >> (i * 2)
		s.Job.Sink.Stats(Figures(total, l, sent, int64(i+1)))
	}
	if s.Job.Params.Strategy.Postcopy() {
		if err := s.Job.Commit(ctx); err != nil {
			return err
		}
		if !s.w.byAgents() {
			s.stop(migrate.RunPostcopy)
			return nil
		}
	}
	s.stop(migrate.RunPaused)
	return nil
}

func (s *Session) stop(run migrate.RunState) {
	s.move(run, "-")
	s.w.emit(s.Job.Sink, migrate.SideSource, migrate.EventStop, 0)
}

func (s *Session) resume() {
	s.w.mu.Lock()
	postcopy := s.w.Source.state != nil && s.w.Source.state.Run == migrate.RunPostcopy
	s.w.mu.Unlock()
	switch {
	case postcopy:
		s.move("-", migrate.RunPostcopy)
	case s.Job.Params.Suspend:
		s.move(migrate.RunMigrated, migrate.RunPaused)
		return
	default:
		s.move(migrate.RunMigrated, migrate.RunRunning)
	}
	s.w.emit(s.Job.Sink, migrate.SideDestination, migrate.EventResume, 0)
}

// page ends a post-copy; after a pre-copy there is nothing to fetch.
func (s *Session) page() {
	s.w.mu.Lock()
	fetching := s.w.Dest.state != nil && s.w.Dest.state.Run == migrate.RunPostcopy
	s.w.missing = false
	s.w.mu.Unlock()
	if fetching {
		s.move(migrate.RunMigrated, migrate.RunRunning)
	}
}

// Figures are the figures of a job that has left bytes of total to send.
func Figures(total, left, sent, round int64) migrate.Stats {
	p := func(v int64) *int64 { return &v }
	return migrate.Stats{Status: "active", Elapsed: time.Second, RAMTotal: p(total), RAMRemaining: p(left), RAMSent: p(sent), Round: p(round),
		NormalPages: p(sent / 4096), PageSize: p(4096), DirtyRate: p(16 << 20), Bandwidth: p(128 << 20)}
}
