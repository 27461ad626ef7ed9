package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/engine"
	"github.com/vmmigrate/vmmigrate/migrate/engine/worker"
	"github.com/vmmigrate/vmmigrate/migrate/qemuhost"
	"github.com/vmmigrate/vmmigrate/qmp"
	"github.com/vmmigrate/vmmigrate/testenv/bareguest"
)

// shape is what a test's guest is like.
type shape struct {
	memory int // MiB
	end    uint32
	rate   uint32 // pages a second; 0 is as fast as it can
	cpus   int
	accel  string
}

// sharedQEMU is a QEMU whose RAM is in a shared file.
type sharedQEMU struct {
	t     *testing.T
	cmd   *exec.Cmd
	qmp   string // of the driver
	probe string // of the test
	ram   string
	ended chan struct{}
	said  *strings.Builder
}

func startShared(t *testing.T, image string, s shape, extra ...string) *sharedQEMU {
	t.Helper()
	need.QEMU(t)
	need.UFFD(t)
	dir, err := os.MkdirTemp("/dev/shm", "vmmigrate-test") // RAM on a tmpfs, as hosts have it
	if err != nil {
		t.Fatal(err)
	}
	q := &sharedQEMU{t: t, qmp: filepath.Join(dir, "qmp"), probe: filepath.Join(dir, "probe"), ram: filepath.Join(dir, "ram"),
		ended: make(chan struct{}), said: &strings.Builder{}}
	accel := s.accel
	if accel == "" {
		accel = "tcg"
	}
	args := slices.Concat(bareguest.Args(image), []string{
		"-machine", "q35,memory-backend=pc.ram", "-accel", accel, "-cpu", bareguest.CPU(accel), "-smp", fmt.Sprint(max(1, s.cpus)),
		"-m", fmt.Sprintf("%dM", s.memory), "-name", "guest,debug-threads=on",
		"-object", fmt.Sprintf("memory-backend-file,id=pc.ram,size=%dM,mem-path=%s,share=on", s.memory, q.ram),
		"-qmp", "unix:" + q.qmp + ",server=on,wait=off", "-qmp", "unix:" + q.probe + ",server=on,wait=off",
	}, extra)
	q.cmd = exec.Command("qemu-system-x86_64", args...)
	q.cmd.Stderr = q.said
	if err := q.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(q.ended)
		_ = q.cmd.Wait() // a killed process is no failure of the test
	}()
	t.Cleanup(func() {
		_ = q.cmd.Process.Kill() // it may have ended
		<-q.ended
		if t.Failed() && q.said.Len() > 0 {
			t.Logf("QEMU %d said: %s", q.cmd.Process.Pid, q.said)
		}
		_ = os.RemoveAll(dir)
	})
	return q
}

func listening[T any](ctx context.Context, q *sharedQEMU, dial func() (T, error)) T {
	q.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := dial()
		if err == nil {
			return c
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) {
			q.t.Fatal(err)
		}
		select {
		case <-tick.C:
		case <-q.ended:
			q.t.Fatalf("QEMU ended: %s", q.said)
		case <-ctx.Done():
			q.t.Fatalf("QEMU does not listen: %v", ctx.Err())
		}
	}
}

func (q *sharedQEMU) host(ctx context.Context) *qemuhost.Host {
	h := listening(ctx, q, func() (*qemuhost.Host, error) {
		return qemuhost.Dial(ctx, qemuhost.Scheme+"://"+q.qmp, qemuhost.Options{})
	})
	q.t.Cleanup(func() { _ = h.Close() })
	return h
}

func (q *sharedQEMU) monitor(ctx context.Context) *qmp.Client {
	c := listening(ctx, q, func() (*qmp.Client, error) { return qmp.Dial(ctx, "unix", q.probe) })
	q.t.Cleanup(func() { _ = c.Close() })
	return c
}

// sink keeps what a session tells.
type sink struct {
	t     *testing.T
	mu    sync.Mutex
	last  migrate.Stats
	stop  time.Time
	notes []string
	pause time.Duration
}

func (s *sink) Stats(v migrate.Stats) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = v
}

func (s *sink) Guest(side migrate.Side, e migrate.GuestEvent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if side == migrate.SideSource && e.Kind == migrate.EventStop {
		s.stop = e.At
	}
	if side == migrate.SideDestination && e.Kind == migrate.EventResume && !s.stop.IsZero() {
		s.pause = e.At.Sub(s.stop)
	}
}

func (s *sink) Note(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notes = append(s.notes, text)
}

// workers gives agents that work in this process.
func workers(t *testing.T, spoil func(context.Context, string) error) func(context.Context, migrate.Place) (agent.Agent, error) {
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	return func(context.Context, migrate.Place) (agent.Agent, error) {
		return worker.New(worker.Options{Version: "test", Log: log, Spoil: spoil})
	}
}

func testImage(t *testing.T, s shape) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "guest.bin")
	if err := bareguest.Write(path, bareguest.Config{Start: 1 << 20, End: s.end, Rate: s.rate, Report: 1}); err != nil {
		t.Fatal(err)
	}
	return path
}

// untilPass waits, by looking at its RAM, until the guest has gone over its memory that often.
func untilPass(ctx context.Context, t *testing.T, file string, pass uint64) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		if s, err := bareguest.ReadState(f); err == nil && s.Pass >= pass {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("the guest does not write its memory")
		}
	}
}

// checkStopped stops the guest and holds its RAM to the guest's own rule.
func checkStopped(ctx context.Context, t *testing.T, q *sharedQEMU, mon *qmp.Client) bareguest.State {
	t.Helper()
	if err := qmp.Stop(ctx, mon); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(q.ram)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := bareguest.CheckRAM(f)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// TestT3NBDMovesABareGuest moves a guest that writes all the time, by each strategy, and looks at every page of it.
func TestT3NBDMovesABareGuest(t *testing.T) {
	for _, strategy := range []migrate.Strategy{migrate.StrategyPrecopy, migrate.StrategyPostcopy, migrate.StrategyHybrid} {
		t.Run(string(strategy), func(t *testing.T) {
			s := shape{memory: 128, end: 64 << 20, rate: 5000}
			if strategy != migrate.StrategyPrecopy {
				s.rate = 0 // faster than anything can follow
			}
			moveBare(t, s, migrate.Params{Strategy: strategy, MaxDowntime: 300 * time.Millisecond})
		})
	}
}

func moveBare(t *testing.T, s shape, p migrate.Params) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	image := testImage(t, s)
	src := startShared(t, image, s)
	dst := startShared(t, image, s, "-incoming", "defer")
	from, to := src.host(ctx), dst.host(ctx)
	mon := dst.monitor(ctx)
	untilPass(ctx, t, src.ram, 1)
	tell := &sink{t: t}
	e := &engine.NBD{Connect: workers(t, nil), Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	sess, err := e.Open(ctx, migrate.Job{ID: "m-test", Domain: "guest", Source: from, Dest: to, Params: p,
		Commit: func(context.Context) error { return nil }, Sink: tell})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := sess.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{{"prepare", sess.Prepare}, {"copy", sess.Copy}, {"resume", sess.Resume}, {"page", sess.Page}, {"finish", sess.Finish}} {
		begun := time.Now()
		if err := step.do(ctx); err != nil {
			t.Fatalf("%s: %v (%v)", step.name, err, tell.notes)
		}
		t.Logf("%s took %v", step.name, time.Since(begun))
	}
	now, err := bareguest.ReadState(open(t, dst.ram))
	if err != nil {
		t.Fatal(err)
	}
	untilPass(ctx, t, dst.ram, now.Pass+2)
	st := checkStopped(ctx, t, dst, mon)
	tell.mu.Lock()
	defer tell.mu.Unlock()
	t.Logf("pause %v, pass %d, figures %+v, notes %v", tell.pause, st.Pass, tell.last, tell.notes)
}

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

var _ net.Conn
