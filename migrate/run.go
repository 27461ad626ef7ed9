package migrate

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate/storage"
)

// run is one migration in the coordinator's hands. Its loop owns all fields; steps run in a goroutine of their own, one
// at a time, and report back over done. The observer takes what the engine sees, from any goroutine.
type run struct {
	c       *Coordinator
	req     Request
	entry   Entry
	domain  DomainFacts
	started time.Time

	machine Machine
	log     Log
	session Session
	opened  pairOf // what the session was opened with; a step's to write
	obs     *observer
	rec     *recorder
	est     *Estimator

	wg      sync.WaitGroup
	done    chan stepDone
	commits chan commitAsk
	stop    context.CancelFunc // ends the running step's context
	cancels *time.Timer        // escalates a cancel
	giveUp  *time.Timer        // ends a recovery
	quit    chan struct{}      // closed when the loop has ended

	cause      error // the first error that turned the migration round
	causePhase Phase
	end        *End
	detached   bool
	hosts      *hosts
	parked     atomic.Bool
	percent    float64 // what an earlier coordinator had shown
	begun      bool    // the first phase is noted
	cancelSeen bool
	sendsRAM   Host      // whose QEMU was told to send its RAM again; a step's to write
	committed  time.Time // when the commit was written; zero before
	images     []storage.Made
	remover    ImageRemover // reached before its host went
	keeps      chan keepAsk
	chosen     bool // the operator said who owns the guest
	late       bool // an earlier coordinator had written the commit
}

type stepDone struct {
	step    Step
	err     error
	ends    Ends
	session Session // opened by the step
}

// commitAsk is an engine's early commit on its way to the loop.
type commitAsk struct {
	ctx   context.Context
	reply chan error
}

// keepAsk is what an engine makes at the destination, on its way to the loop.
type keepAsk struct {
	images []storage.Made
	reply  chan error
}

func (c *Coordinator) newRun(req Request) *run {
	r := &run{c: c, req: req, started: time.Now(), done: make(chan stepDone, 1), commits: make(chan commitAsk), keeps: make(chan keepAsk), quit: make(chan struct{})}
	r.rec = newRecorder(r.started)
	r.obs = newObserver(r.rec)
	r.hosts = &hosts{source: req.Source, dest: req.Dest, dial: c.cfg.Dial, limit: c.cfg.Limits.Ask}
	r.stop = func() {}
	r.entry = Entry{ID: req.ID, Domain: req.Domain, EngineReason: req.EngineReason, Params: req.Params, Started: r.started}
	if req.Source != nil {
		r.entry.Source = req.Source.URI()
	}
	if req.Dest != nil {
		r.entry.Dest = req.Dest.URI()
	}
	if req.Engine != nil {
		r.entry.Engine = req.Engine.Name()
	}
	return r
}

// drive runs the machine to its end.
func (r *run) drive(ctx context.Context) (Report, error) {
	r.est = NewEstimator(r.machineConfig().Postcopy, r.domain.Memory)
	r.est.GoOn(r.percent)
	r.rec.expect(r.domain, r.entry.Params)
	r.rec.foretold(r.entry.Predicted)
	r.est.Expect(r.rec.planned())
	var limit <-chan time.Time
	if d := r.entry.Params.MaxDuration; d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		limit = t.C
	}
	tick := time.NewTicker(r.c.cfg.Limits.Poll)
	defer tick.Stop()
	r.cancels, r.giveUp = idleTimer(), idleTimer()
	defer r.cancels.Stop()
	defer r.giveUp.Stop()

	interrupt := ctx.Done()
	r.feed(Input{Kind: InputBegin})
	for r.end == nil {
		select {
		case d := <-r.done:
			r.stepEnded(d)
		case a := <-r.commits:
			a.reply <- r.commitEarly(a.ctx)
		case k := <-r.keeps:
			k.reply <- r.keep(k.images)
		case <-r.obs.wake:
			r.observe()
		case <-interrupt:
			interrupt = nil
			r.feed(Input{Kind: InputInterrupt})
		case <-limit:
			r.feed(Input{Kind: InputTimeLimit})
		case <-r.cancels.C:
			r.escalate()
		case <-r.giveUp.C:
			r.feed(Input{Kind: InputGiveUp})
		case <-tick.C:
			r.tick()
		}
	}
	r.observe()
	r.tidy(*r.end)
	return r.result(*r.end)
}

func idleTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// feed gives the machine one input and carries out what it says.
func (r *run) feed(in Input) {
	before := r.machine
	m, acts := r.machine.Step(in)
	r.machine = m
	moved := r.note(before)
	for _, a := range acts {
		r.act(a)
	}
	if moved { // after the step has started: in the pause every millisecond counts
		r.publish("")
	}
}

// note follows the machine's phase for the report, and keeps in the journal that the destination ran. It tells whether
// the phase is a new one.
func (r *run) note(before Machine) (moved bool) {
	if p := r.machine.Phase(); p != before.Phase() || !r.begun {
		r.begun, moved = true, true
		r.rec.phase(time.Now(), p)
		r.est.Phase(p)
	}
	if r.machine.Landed() && !before.Landed() && r.machine.Running() == before.Running() && r.machine.Running() != 0 {
		r.write(r.machine.Record())
	}
	return moved
}

func (r *run) act(a Action) {
	switch a.Kind {
	case ActionStart:
		r.start(a)
	case ActionCancel:
		r.cancelStep()
	case ActionAbandon:
		r.stopStep()
	case ActionRefuse:
		r.obs.Note("a request to cancel came after the commit and was refused")
	case ActionDetach:
		r.detached = true
		r.end = &a.End
	case ActionEnd:
		r.end = &a.End
	}
}

// start journals the step and runs it. A step that may not run without its record fails instead.
func (r *run) start(a Action) {
	if a.Step == StepRecover && a.Attempt == 1 {
		r.giveUp.Reset(r.c.cfg.Limits.Recover)
	}
	if a.Step == StepPage || a.Step == StepFinish {
		r.giveUp.Stop()
	}
	var err error
	if a.Step != StepCommit && a.Step != StepResume { // the one writes itself, the other was just written
		err = r.write(r.machine.Record())
	}
	if err != nil && r.needsRecord(a.Step) {
		r.done <- stepDone{step: a.Step, err: Fail("write the journal", SideCoordinator, err, "look at the state directory: is it full or read-only?")}
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	r.cancels.Stop()
	record := r.machine.Record()
	if a.Step == StepCommit {
		r.committed = time.Now()
		record.CommittedAt, record.Images = r.committed, r.images
	}
	r.wg.Go(func() {
		r.park(ctx, "before-"+a.Step.String())
		d := r.do(ctx, a, record)
		r.park(ctx, "after-"+a.Step.String())
		r.done <- d
	})
}

// needsRecord tells which steps may not run without their record. A source is released only when it is on the disk that our
// agents have fetched all of its RAM: whoever recovers could not tell otherwise.
func (r *run) needsRecord(s Step) bool {
	switch s {
	case StepPrepare, StepCopy:
		return true
	case StepFinish, StepRelease:
		c := r.machineConfig()
		return c.Agents && c.Postcopy
	}
	return false
}

// stamp gives a record its times. That of the commit is kept from the first record that holds it, so that no later
// record, such as one of a recovery that came to nothing, makes the commit look younger than it is.
func (r *run) stamp(rec Record) Record {
	rec.At, rec.Images = time.Now(), r.images
	switch {
	case !rec.Committed:
		return rec
	case r.committed.IsZero():
		r.committed = rec.At
	}
	rec.CommittedAt = r.committed
	return rec
}

// write appends to the journal. A failure is noted; whether it matters is the caller's to say.
func (r *run) write(rec Record) error {
	rec = r.stamp(rec)
	err := r.log.Write(context.Background(), rec)
	if err != nil {
		r.c.cfg.Log.Error("journal", "migration", r.entry.ID, "err", err)
		r.obs.Note(fmt.Sprintf("the journal could not be written before %s: %v", rec.Step, err))
	}
	return err
}

func (r *run) stepEnded(d stepDone) {
	r.stop()
	r.cancels.Stop()
	if d.session != nil {
		r.session = d.session
	}
	if d.step == StepCopy {
		r.rec.ready(time.Now())
	}
	r.observe() // events that came before the step's end are seen before it
	class := ClassOf(d.err)
	if d.err != nil {
		r.c.cfg.Log.Info("step failed", "migration", r.entry.ID, "step", d.step.String(), "class", class.String(), "err", d.err)
		r.blame(d)
	} else if d.step == StepCommit {
		r.rec.committed(time.Now())
	}
	r.feed(Input{Kind: InputDone, Step: d.step, Class: class, Ends: d.ends})
}

// blame keeps the first error as the cause; what fails on the way back is noted beside it.
func (r *run) blame(d stepDone) {
	if r.cause == nil || r.cause == errLeft || errors.Is(r.cause, ErrPaused) && ClassOf(d.err) != ClassPaused && d.step != StepRecover {
		r.cause, r.causePhase = d.err, r.machine.Phase()
		return
	}
	if d.step != StepAsk {
		r.obs.Note(fmt.Sprintf("%s: %v", d.step, d.err))
	}
}

// commitEarly writes the commit that the engine asks for inside StepCopy.
func (r *run) commitEarly(ctx context.Context) error {
	if r.machine.Committed() {
		return nil
	}
	m, acts := r.machine.Step(Input{Kind: InputCommitAsked})
	if len(acts) != 1 || acts[0].Kind != ActionCommit {
		return ErrCancelled
	}
	next, _ := m.Step(Input{Kind: InputCommitted})
	rec := r.stamp(next.Record())
	if err := r.log.Write(context.WithoutCancel(ctx), rec); err != nil {
		return Fail("write the commit", SideCoordinator, err, "look at the state directory: is it full or read-only?")
	}
	r.machine = next
	return nil
}

// observe takes over what the engine saw since.
func (r *run) observe() {
	events, notes := r.obs.take(r.est)
	for _, n := range notes {
		r.c.cfg.Log.Info("note", "migration", r.entry.ID, "note", n)
		r.publish(n)
	}
	for _, e := range events {
		switch {
		case e.side == SideSource && e.ev.Kind == EventStop:
			r.feed(Input{Kind: InputStopped})
		case e.side == SideSource && e.ev.Kind == EventResume:
			r.feed(Input{Kind: InputStarted})
		case e.side == SideDestination && e.ev.Kind == EventResume:
			r.feed(Input{Kind: InputLanded})
		}
	}
	if r.machine.Phase() == PhaseCopying && r.obs.counted() {
		r.parkLoop("in-copy")
	}
}

// cancelStep asks the session to end its step early, and ends the step's context if that takes too long. A copy that has
// committed is not cut off: only its own end says where the guest is.
func (r *run) cancelStep() {
	session, grace := r.session, r.c.cfg.Limits.Cancel
	if session != nil {
		r.wg.Go(func() {
			ctx, stop := context.WithTimeout(context.Background(), grace)
			defer stop()
			if err := session.Cancel(ctx); err != nil {
				r.obs.Note(fmt.Sprintf("cancel: %v", err))
			}
		})
	}
	r.cancels.Reset(grace)
}

func (r *run) escalate() {
	if !r.machine.Committed() {
		r.stopStep()
	}
}

func (r *run) stopStep() { r.stop() }

// tick looks for a request to cancel and shows where things are.
func (r *run) tick() {
	asked, err := r.log.CancelAsked(context.Background())
	if err != nil {
		r.c.cfg.Log.Warn("look for a request to cancel", "err", err)
	}
	if asked && !r.cancelSeen {
		r.cancelSeen = true
		r.feed(Input{Kind: InputCancel})
	}
	if r.end == nil {
		r.publish("")
	}
}

// close ends everything the run started and waits for it.
func (r *run) close() {
	r.stopStep()
	close(r.quit)
	r.wg.Wait()
	if r.session != nil {
		if err := r.session.Close(); err != nil {
			r.c.cfg.Log.Warn("close the session", "err", err)
		}
	}
	r.hosts.close()
	if r.log != nil {
		if err := r.log.Close(); err != nil {
			r.c.cfg.Log.Warn("close the journal", "err", err)
		}
	}
}
