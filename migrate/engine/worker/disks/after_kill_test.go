package disks

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
)

// agentEnv makes the test's program a destination's agent, as it says in JSON.
const agentEnv = "VMMIGRATE_TEST_DISK_AGENT"

// otherAgent is what that agent does: it says where it listens, reads a line before it thaws, fetches, says how much came, and
// lingers when its input ends.
type otherAgent struct {
	Spec agent.DiskDestSpec
	// KillAt is when it is killed: the first of these points that is passed so many times.
	KillAt string
	Times  int
}

func beAgent(text string) {
	var o otherAgent
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		panic(err)
	}
	s := &spoiler{at: func(_ context.Context, point string, n int) error {
		if point == o.KillAt && n == o.Times {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return nil
	}}
	e, ctx := New(Options{Spoil: s.spoil}), context.Background()
	d, err := e.OpenDest(ctx, o.Spec)
	if err != nil {
		panic(err)
	}
	fmt.Println(d.Addr())
	in := bufio.NewReader(os.Stdin)
	_, _ = in.ReadString('\n')
	if o.Spec.Mode == agent.DisksAfter {
		if err := d.Thaw(ctx); err != nil {
			panic(err)
		}
	}
	p, err := d.Fetch(ctx, nobody)
	fmt.Println(p.Bytes, err)
	_, _ = in.ReadString('\n')
	e.Linger(ctx)
	if err := e.Close(ctx); err != nil {
		panic(err)
	}
	fmt.Println("gone")
}

// process is such an agent.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	in    *os.File
	lines *bufio.Scanner
}

func startAgent(t *testing.T, o otherAgent) *process {
	t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), agentEnv+"="+string(text))
	cmd.Stdin, cmd.Stderr = r, os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = r.Close()
	p := &process{t, cmd, w, bufio.NewScanner(out)}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = w.Close()
	})
	return p
}

// line is the next that it says; empty if it has ended.
func (p *process) line() string {
	p.lines.Scan()
	return p.lines.Text()
}

func (p *process) say(s string) {
	if _, err := p.in.WriteString(s + "\n"); err != nil {
		p.t.Error(err)
	}
}

// An agent that is killed while it fetches leaves what it has to the next, and a guest that reads hears nothing of it.
func TestT1KilledAgent(t *testing.T) {
	const size = 40 << 20
	path, content := rawDisk(t, size, 9)
	for _, at := range []string{"disk-piece", "disk-mark"} {
		t.Run(at, func(t *testing.T) {
			dir := shortDir(t)
			spec := destSpec(t, dir, size)
			d := agent.SourceDisk{Target: "vda", Path: path, Format: "raw", Size: size}
			one := startAgent(t, otherAgent{Spec: spec, KillAt: at, Times: 12})
			if _, err := sourceOf(t, New(Options{}), one.line(), true, d); err != nil {
				t.Fatal(err)
			}
			guest := reader(t, dir)
			one.say("thaw")
			if said := one.line(); said != "" {
				t.Fatalf("it was not killed: %s", said)
			}
			got, read := make([]byte, size), make(chan error, 1)
			go func() { read <- guest.ReadAt(t.Context(), got, 0) }() // there is nobody
			spec.Resume = true
			other := startAgent(t, otherAgent{Spec: spec})
			if _, err := sourceOf(t, New(Options{}), other.line(), true, d); err != nil {
				t.Fatal(err)
			}
			other.say("thaw")
			said := other.line()
			if !strings.HasSuffix(said, "<nil>") {
				t.Fatal(said)
			}
			if err := <-read; err != nil || string(got) != string(content) {
				t.Fatalf("the guest reads something else, %v", err)
			}
		})
	}
}

// Two agents: the one that lingers lets go of the disks as soon as another is sent for.
func TestT1LingeringAgentIsTakenOver(t *testing.T) {
	const size = 8 << 20
	path, content := rawDisk(t, size, 10)
	dir := shortDir(t)
	spec := destSpec(t, dir, size)
	d := agent.SourceDisk{Target: "vda", Path: path, Format: "raw", Size: size}
	one := startAgent(t, otherAgent{Spec: spec})
	if _, err := sourceOf(t, New(Options{}), one.line(), true, d); err != nil {
		t.Fatal(err)
	}
	guest := reader(t, dir)
	one.say("thaw")
	if said := one.line(); !strings.HasSuffix(said, "<nil>") {
		t.Fatal(said)
	}
	one.say("linger")
	checkAll(t, guest, content) // by the agent that lingers
	spec.Resume = true
	e := New(Options{})
	next := destOf(t, e, spec)
	if said := one.line(); said != "gone" {
		t.Errorf("the one before: %s", said)
	}
	if p, err := next.Fetch(t.Context(), nobody); err != nil || p.Bytes != 0 { // no source is needed
		t.Errorf("%d bytes came, %v", p.Bytes, err)
	}
	checkAll(t, guest, content)
}

// An agent that stands still is ended for another, and its guest reads on.
func TestT1AgentThatStandsStillIsEnded(t *testing.T) {
	const size = 4 << 20
	path, content := rawDisk(t, size, 12)
	dir := shortDir(t)
	spec := destSpec(t, dir, size)
	one := startAgent(t, otherAgent{Spec: spec})
	if one.line() == "" {
		t.Fatal("it is not there")
	}
	if err := one.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	// The signal is sent before all of its threads stand still, and the others would go on answering.
	if _, err := syscall.Wait4(one.cmd.Process.Pid, nil, syscall.WUNTRACED, nil); err != nil {
		t.Fatal(err)
	}
	spec.Resume = true
	if _, err := New(Options{}).OpenDest(t.Context(), spec); !errors.Is(err, migrate.ErrBusy) {
		t.Fatalf("with nobody to end it: %v", err)
	}
	e := New(Options{End: func(_ context.Context, pid int) error {
		if pid != one.cmd.Process.Pid {
			t.Errorf("process %d is ended, and the agent is %d", pid, one.cmd.Process.Pid)
		}
		return one.cmd.Process.Kill()
	}})
	next := destOf(t, e, spec)
	if _, err := sourceOf(t, e, next.Addr(), true, agent.SourceDisk{Target: "vda", Path: path, Format: "raw", Size: size}); err != nil {
		t.Fatal(err)
	}
	checkAll(t, reader(t, dir), content)
}
