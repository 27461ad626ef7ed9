package testenv

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/testenv/internal/daemon"
	"github.com/vmmigrate/vmmigrate/testenv/internal/layout"
	"github.com/vmmigrate/vmmigrate/testenv/internal/owner"
)

func TestT2DownLeavesNothing(t *testing.T) {
	dir := shortDir(t)
	lab := up(t, Config{Dir: dir, Bare: true})
	s := track(t, lab)
	if len(s.inhabitants(t)) < 3 {
		t.Fatalf("the check finds too little: %q", s.inhabitants(t))
	}
	if err := lab.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.checkGone(t, false)
	existed, err := Down(t.Context(), "t", dir)
	if existed || err != nil {
		t.Errorf("Down of nothing: %v, %v", existed, err)
	}
	if _, err := Open(t.Context(), "t", dir); !errors.Is(err, ErrNotUp) {
		t.Errorf("Open of nothing: %v", err)
	}
	if _, err := lab.Status(t.Context()); !errors.Is(err, ErrNotUp) {
		t.Errorf("status of nothing: %v", err)
	}
}

func TestT2KilledDaemonLeavesFilesOnly(t *testing.T) {
	dir := shortDir(t)
	lab := up(t, Config{Dir: dir, Bare: true})
	s := track(t, lab)
	if err := lab.state.Daemon.Kill(t.Context()); err != nil { // SIGKILL
		t.Fatal(err)
	}
	s.checkGone(t, true)
	if _, err := Open(t.Context(), "t", dir); !errors.Is(err, ErrNotUp) {
		t.Errorf("Open: %v", err)
	}
	// The next Up removes the remains.
	again := up(t, Config{Dir: dir, Bare: true})
	track(t, again)
	if existed, err := Down(t.Context(), "t", dir); !existed || err != nil {
		t.Errorf("Down: %v, %v", existed, err)
	}
	s.checkGone(t, false)
}

func TestT2UpTwice(t *testing.T) {
	dir := shortDir(t)
	lab := up(t, Config{Dir: dir, Bare: true})
	if _, err := Up(t.Context(), Config{Name: "t", Dir: dir, Bare: true}); !errors.Is(err, ErrUp) {
		t.Errorf("second Up: %v", err)
	}
	output(t, host(t, lab, "a"), "true") // the first is unharmed
}

func TestT2DownWithoutRecord(t *testing.T) {
	dir := shortDir(t)
	lab := up(t, Config{Dir: dir, Bare: true})
	s := track(t, lab)
	if err := os.WriteFile(layout.StateFile(lab.Dir()), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if existed, err := Down(t.Context(), "t", dir); !existed || err != nil {
		t.Errorf("Down: %v, %v", existed, err)
	}
	s.checkGone(t, false)
}

// started is a process that brings a lab up.
type started struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
	dir   string
}

// startUp runs starter in a process of its own.
func startUp(t *testing.T, how string) *started {
	t.Helper()
	need.Netns(t)
	s := &started{dir: shortDir(t)}
	s.cmd = exec.Command("/proc/self/exe")
	s.cmd.Env = append(os.Environ(), starterEnv+"="+s.dir+" "+how)
	stdin, err := s.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.lines = bufio.NewScanner(out)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		if _, err := Down(context.Background(), "t", s.dir); err != nil {
			t.Error(err)
		}
	})
	return s
}

// until reads what the starter tells up to a line that begins with the word.
func (s *started) until(t *testing.T, word string) {
	t.Helper()
	for s.lines.Scan() {
		if strings.HasPrefix(s.lines.Text(), word) {
			return
		}
	}
	t.Fatalf("the starter ended before it said %q", word)
}

// daemons finds the lab's daemon by its name.
func (s *started) daemons(t *testing.T) []owner.Identity {
	t.Helper()
	ids, err := owner.Find("vml-t", filepath.Join(s.dir, "t"))
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// kill ends the starter as kill -9 does.
func (s *started) kill(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = s.cmd.Wait()
}

// wait returns when all the processes have ended by themselves.
func wait(t *testing.T, ids []owner.Identity) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	for _, id := range ids {
		if err := id.Wait(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

func TestT2StarterKilledOnTheWay(t *testing.T) {
	for _, step := range []string{"step: network", "step: host"} {
		t.Run(step, func(t *testing.T) {
			s := startUp(t, "")
			s.until(t, step)
			ids := s.daemons(t)
			// A host that is just being started still has the daemon's name.
			if len(ids) == 0 {
				t.Fatal("no daemon is found")
			}
			s.kill(t)
			// It was coming up, or had just come up unseen: either way Down ends it.
			if existed, err := Down(t.Context(), "t", s.dir); !existed || err != nil {
				t.Errorf("Down: %v, %v", existed, err)
			}
			wait(t, ids)
			spoor{dir: filepath.Join(s.dir, "t")}.checkGone(t, false)
		})
	}
}

func TestT2DaemonEndsWithItsStarter(t *testing.T) {
	s := startUp(t, "bound")
	s.until(t, "up")
	lab, err := Open(t.Context(), "t", s.dir)
	if err != nil {
		t.Fatal(err)
	}
	trace := track(t, lab)
	s.kill(t)
	wait(t, []owner.Identity{lab.state.Daemon})
	trace.checkGone(t, true)
}

func TestT2LabOutlivesItsStarter(t *testing.T) {
	s := startUp(t, "")
	s.until(t, "up")
	s.kill(t)
	lab, err := Open(t.Context(), "t", s.dir)
	if err != nil {
		t.Fatal(err)
	}
	trace := track(t, lab)
	output(t, host(t, lab, "b"), "true")
	if err := lab.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	trace.checkGone(t, false)
}

func TestT2CancelledUpLeavesNothing(t *testing.T) {
	need.Netns(t)
	dir := shortDir(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	c := Config{Name: "t", Dir: dir, Bare: true, Progress: func(string) { cancel(why) }}
	if _, err := Up(ctx, c); !errors.Is(err, why) {
		t.Errorf("Up: %v", err)
	}
	spoor{dir: filepath.Join(dir, "t")}.checkGone(t, false)
}

func TestT2DownDuringUp(t *testing.T) {
	need.Netns(t)
	dir := shortDir(t)
	down := make(chan error, 1)
	first := true
	c := Config{Name: "t", Dir: dir, Bare: true, Progress: func(string) {
		if first {
			first = false
			go func() {
				_, err := Down(t.Context(), "t", dir)
				down <- err
			}()
		}
	}}
	lab, err := Up(t.Context(), c)
	if err == nil {
		// It was faster; then Down came after.
		t.Log("the lab was up before it was ended", lab.Name())
	}
	if err := <-down; err != nil {
		t.Errorf("Down: %v", err)
	}
	spoor{dir: filepath.Join(dir, "t")}.checkGone(t, false)
}

func TestUpRefuses(t *testing.T) {
	for what, c := range map[string]Config{
		"name": {Name: "No Good"},
		"dir":  {Dir: "relative"},
		"host": {Hosts: []string{"x/y"}},
	} {
		if _, err := Up(t.Context(), c); err == nil {
			t.Errorf("a wrong %s is accepted", what)
		}
	}
	if _, err := Down(t.Context(), "../etc", ""); err == nil {
		t.Error("Down leaves its directory")
	}
	if _, err := Open(t.Context(), "../etc", ""); err == nil {
		t.Error("Open leaves its directory")
	}
	t.Setenv(daemon.RoleEnv, "other")
	if _, err := Up(t.Context(), Config{Dir: t.TempDir(), Name: "t"}); err == nil {
		t.Error("a helper brings up a lab of its own")
	}
}

func TestMountPoints(t *testing.T) {
	got := mountPoints("22 1 0:20 / /proc rw - proc proc rw\n36 35 98:0 /a /x\\040y\\134z rw master:1 - ext3 /dev/root rw\nshort\n")
	if len(got) != 2 || got[0] != "/proc" || got[1] != `/x y\z` {
		t.Errorf("mount points %q", got)
	}
}
