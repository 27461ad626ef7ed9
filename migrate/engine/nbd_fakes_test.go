package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// world is a guest with RAM in memory, on two hosts with an agent each. What is called is noted in the script, rounds as one
// "copy".
type world struct {
	*script
	t       *testing.T
	pages   []int // what the guest has at the source
	copied  []int // what the destination has of it; 0 is a hole
	dirty   ram.Set
	missing *ram.Bitmap
	still   bool // nothing writes any more
	once    sync.Once

	places    [2]migrate.Place
	hostname  string
	performs  chan struct{} // closed when Perform was called
	disks     bool          // then it is called before the rounds
	srcEvents chan migrate.GuestEvent
	// writes is what the guest does while pages are fetched, which takes took.
	writes func(w *world)
	took   time.Duration
	// late is how long the source's QEMU takes to send its stream, as one that copies disks does.
	late time.Duration
	// park holds the first fetch up until its context ends.
	park chan struct{}
	// never is for a source that does not come to stand still.
	never bool
	deaf  bool // the destination's agent does not hear that it is to go
	// unsent is for one whose stream does not come to its end.
	unsent bool
	dead   bool // agents do not answer
	// gate is called before the gate opens.
	gate func()
	// paged is called when all pages have come.
	paged func()
	// pageSize is QEMU's word for the size of the guest's pages.
	pageSize string
	held     agent.Held
	mute     bool // nobody hears of a copy that is to be kept
	specs    struct {
		src agent.SourceSpec
		dst agent.DestSpec
	}
}

func worldBlocks() []ram.Block { return []ram.Block{{Name: "pc.ram", Size: 64 << 12, PageSize: 4096}} }

func newWorld(t *testing.T) *world {
	w := &world{script: newScript(), t: t, pages: make([]int, 64), copied: make([]int, 64), dirty: ram.NewSet(worldBlocks()),
		missing: ram.NewBitmap(64), hostname: "b.example.org", pageSize: "4 KiB", performs: make(chan struct{}), srcEvents: make(chan migrate.GuestEvent, 8)}
	for i := range w.pages {
		w.pages[i] = 1
	}
	w.dirty.Fill()
	w.perform = make(chan struct{})
	// Under libvirt at the source, a bare QEMU at the destination.
	w.places[0] = migrate.Place{Local: true, SocketDir: "/run/a", PIDFile: func(d string) string { return "/run/a/" + d + ".pid" }}
	w.places[1] = migrate.Place{Local: true, SocketDir: "/run/b", PID: os.Getpid()}
	return w
}

// write is the guest's: page i gets new contents.
func (w *world) write(pages ...int) {
	for _, i := range pages {
		w.pages[i]++
		w.dirty[0].Set(i)
	}
}

// note is call, with all that belongs to the rounds told once.
func (w *world) note(name string) error {
	w.mu.Lock()
	if n := len(w.calls); n > 0 && name == "copy" && w.calls[n-1] == name {
		err := w.fail[name]
		w.mu.Unlock()
		return err
	}
	w.mu.Unlock()
	return w.call(name)
}

// whole fails unless the destination has all of the guest's RAM.
func (w *world) whole() {
	w.t.Helper()
	for i, v := range w.pages {
		if w.copied[i] != v {
			w.t.Errorf("page %d is %d at the destination, want %d", i, w.copied[i], v)
		}
	}
}

// session opens a migration in this world.
func (w *world) session(p migrate.Params) *nbdSession {
	w.t.Helper()
	w.disks = p.CopyStorage != migrate.CopyNone
	job := migrate.Job{ID: "m-1", Domain: "web", Params: p, Sink: fakeSink{w.script},
		Source: worldSource{fakeSource{fakeHost{w.script}, make(chan struct{}), new(sync.Once)}, w}, Dest: worldDest{fakeDest{fakeHost{w.script}}, w},
		Commit: func(context.Context) error { _ = w.call("commit"); return w.commitErr }}
	n := &NBD{Undo: 2 * time.Second, SwitchLimit: 5 * time.Second, IdleLimit: 5 * time.Second,
		Connect: func(_ context.Context, p migrate.Place) (agent.Agent, error) {
			w.mu.Lock()
			w.dead = false
			w.mu.Unlock()
			return worldAgent{w: w}, nil
		}}
	s, err := n.Open(w.t.Context(), job)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := s.Close(); err != nil {
			w.t.Error(err)
		}
	})
	return s.(*nbdSession)
}

type worldSource struct {
	fakeSource
	w *world
}

func (s worldSource) Place(context.Context) (migrate.Place, error) { return s.w.places[0], nil }
func (s worldSource) Monitor(context.Context, string) (qmp.Executor, error) {
	return worldMonitor{s.w, "caps"}, nil
}
func (s worldSource) Watch(ctx context.Context, _ string) (<-chan migrate.GuestEvent, error) {
	c := make(chan migrate.GuestEvent)
	go func() {
		defer close(c)
		for {
			select {
			case ev := <-s.w.srcEvents:
				c <- ev
			case <-ctx.Done():
				return
			}
		}
	}()
	return c, nil
}
func (s worldSource) Perform(ctx context.Context, _ migrate.Offer, _ migrate.Params, t migrate.Ticket) (migrate.Ticket, error) {
	err := s.call("perform")
	if s.w.paused {
		s.w.stands()
	}
	close(s.w.performs) // last: others wait for it, and what is called has its order
	return s.performing(ctx, t, err)
}
func (s worldSource) ResumeGuest(context.Context, string) error   { return s.call("resume-guest") }
func (s worldSource) Release(context.Context, string, bool) error { return s.call("release-source") }
func (s worldSource) Discard(context.Context, string) error       { return s.call("discard") }

// stands stops the guest, unless its QEMU does not even begin.
func (w *world) stands() {
	w.mu.Lock()
	never := w.never || w.fail["perform"] != nil
	w.mu.Unlock()
	if !never {
		w.still = true
		w.srcEvents <- migrate.GuestEvent{Kind: migrate.EventMigration, Detail: statusPreSwitchover}
	}
}

type worldDest struct {
	fakeDest
	w *world
}

func (d worldDest) Place(context.Context) (migrate.Place, error) { return d.w.places[1], nil }
func (d worldDest) Monitor(context.Context, string) (qmp.Executor, error) {
	return worldMonitor{d.w, "dest-caps"}, nil
}
func (d worldDest) Facts(context.Context) (migrate.HostFacts, error) {
	return migrate.HostFacts{Hostname: d.w.hostname}, nil
}

// worldMonitor is a QEMU with one block of shared RAM.
type worldMonitor struct {
	w    *world
	name string
}

func (m worldMonitor) Subscribe(qmp.SubscribeOptions) (*qmp.Subscription, error) {
	return nil, errors.ErrUnsupported
}
func (m worldMonitor) Execute(_ context.Context, command string, args, out any) error {
	var answer string
	switch command {
	case "query-memdev":
		answer = `[{"id":"pc.ram","size":262144,"share":true,"merge":true,"dump":true,"prealloc":false,"host-nodes":[],"policy":"default"}]`
	case "x-query-ramblock":
		answer = `{"human-readable-text":"Block Name PSize Offset Used Total HVA RO\npc.ram ` + m.w.pageSize + ` 0x0 0x40000 0x40000 0x7f0000000000 rw\n"}`
	case "query-memory-size-summary":
		answer = `{"base-memory":262144}`
	case "qom-get":
		answer = `"memory-backend-file"`
	case "migrate-set-capabilities":
		text, err := json.Marshal(args)
		if err != nil {
			return err
		}
		return m.w.call(fmt.Sprintf("%s(%t)", m.name, strings.Contains(string(text), "true")))
	default:
		return fmt.Errorf("%s is not expected", command)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal([]byte(answer), out)
}

// worldAgent is either host's agent.
type worldAgent struct {
	w *world
	agent.Images
	agent.Disks
}

func (a worldAgent) Hello(context.Context) (agent.Identity, error) {
	a.w.mu.Lock()
	defer a.w.mu.Unlock()
	if a.w.dead {
		return agent.Identity{}, migrate.ErrLinkLost
	}
	return agent.Identity{Protocol: agent.Protocol, Certificate: []byte{1}}, nil
}
func (a worldAgent) OpenSource(_ context.Context, spec agent.SourceSpec) (agent.Source, error) {
	a.w.specs.src = spec
	if err := a.w.note("open-source"); err != nil {
		return nil, err
	}
	return worldSourceEnd{a.w}, nil
}
func (a worldAgent) OpenDest(_ context.Context, spec agent.DestSpec) (agent.Dest, error) {
	a.w.specs.dst = spec
	if err := a.w.note("open-dest"); err != nil {
		return nil, err
	}
	return worldDestEnd{a.w}, nil
}
func (a worldAgent) Export(context.Context, agent.ExportSpec) (agent.Exported, error) {
	return nil, migrate.ErrNotSupported
}
func (a worldAgent) Close() error { return nil }

type worldSourceEnd struct{ w *world }

func (e worldSourceEnd) Harvest(context.Context) (agent.Harvest, error) {
	name := "copy"
	if e.w.disks {
		<-e.w.performs
	}
	if e.w.still {
		name = "harvest"
	}
	err := e.w.note(name)
	set := e.w.dirty.Clone()
	e.w.dirty.Reset()
	return agent.Harvest{Dirty: set, Took: time.Millisecond, Tracker: "fake"}, err
}
func (e worldSourceEnd) Stats(context.Context) (agent.SourceStats, error) {
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	if e.w.dead {
		return agent.SourceStats{Links: 1}, migrate.ErrLinkLost
	}
	return agent.SourceStats{Links: 1}, nil
}
func (e worldSourceEnd) StreamUp(ctx context.Context) error {
	select {
	case <-e.w.performs:
	case <-ctx.Done():
		return ctx.Err()
	}
	late := e.w.late
	e.w.late = 0
	<-time.After(late)
	return e.w.note("stream-up")
}
func (e worldSourceEnd) Keep(ctx context.Context, progress func(agent.Progress)) (agent.Progress, error) {
	if e.w.mute {
		_ = e.w.note("keep")
		<-ctx.Done()
		return agent.Progress{}, ctx.Err()
	}
	progress(agent.Progress{Bytes: 1 << 20})
	return agent.Progress{Pages: 200, Bytes: 1 << 20}, e.w.note("keep")
}
func (e worldSourceEnd) Close(context.Context) error { return e.w.note("close-source") }

type worldDestEnd struct{ w *world }

func (e worldDestEnd) Addr() string     { return "[::]:49152" }
func (e worldDestEnd) Held() agent.Held { return e.w.held }
func (e worldDestEnd) Fetch(ctx context.Context, pages ram.Set, progress func(agent.Progress)) (agent.Progress, error) {
	name := "copy"
	if e.w.still {
		name = "fetch"
	}
	if err := e.w.note(name); err != nil {
		return agent.Progress{}, err
	}
	if park := e.w.park; park != nil {
		close(park)
		<-ctx.Done()
		return agent.Progress{}, ctx.Err()
	}
	n := pages.Count()
	for lo, hi := range pages[0].Runs() {
		copy(e.w.copied[lo:hi], e.w.pages[lo:hi])
	}
	if e.w.took > 0 {
		<-time.After(e.w.took)
	}
	if e.w.writes != nil && !e.w.still {
		e.w.writes(e.w)
	}
	return agent.Progress{Pages: int64(n), Bytes: int64(n) * 4096}, nil
}
func (e worldDestEnd) Tune(context.Context, int64, int64) error { return e.w.note("tune") }
func (e worldDestEnd) Pass(_ context.Context, stale ram.Set) error {
	if err := e.w.note("pass"); err != nil {
		return err
	}
	for lo, hi := range stale[0].Runs() {
		clear(e.w.copied[lo:hi])
	}
	e.w.stands()
	return nil
}
func (e worldDestEnd) Switch(_ context.Context, missing ram.Set, _ []agent.PageRef) error {
	if err := e.w.note("punch"); err != nil {
		return err
	}
	for lo, hi := range missing[0].Runs() {
		clear(e.w.copied[lo:hi])
	}
	e.w.missing = missing[0].Clone()
	if !e.w.unsent {
		e.w.once.Do(func() { close(e.w.perform) }) // the source is told that all has arrived
	}
	return nil
}
func (e worldDestEnd) Release(context.Context) error {
	if e.w.gate != nil {
		e.w.gate()
	}
	return e.w.note("release")
}
func (e worldDestEnd) Page(_ context.Context, progress func(agent.Progress)) (agent.Progress, error) {
	if err := e.w.note("page"); err != nil {
		return agent.Progress{}, err
	}
	for lo, hi := range e.w.missing.Runs() {
		copy(e.w.copied[lo:hi], e.w.pages[lo:hi])
	}
	e.w.missing.Reset()
	if e.w.paged != nil {
		e.w.paged()
	}
	return agent.Progress{}, nil
}
func (e worldDestEnd) Close(ctx context.Context, abandon bool) error {
	if e.w.deaf {
		<-ctx.Done()
		return ctx.Err()
	}
	if err := e.w.note("close-dest"); err != nil {
		return err
	}
	if !abandon && !e.w.missing.Empty() {
		return errors.New("pages are missing")
	}
	return nil
}
