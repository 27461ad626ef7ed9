package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/testenv/internal/hostinit"
	"github.com/vmmigrate/vmmigrate/testenv/internal/layout"
	"github.com/vmmigrate/vmmigrate/testenv/internal/logtail"
	"github.com/vmmigrate/vmmigrate/testenv/internal/owner"
)

// RoleEnv names the variable that tells a helper process what it is.
const RoleEnv = "VMMIGRATE_LAB_ROLE"

// The roles.
const (
	RoleDaemon = "daemon"
	RoleHost   = "host"
)

// HelperEnv is the environment of a helper process in that role: nothing of the
// caller's, except for what tells where coverage data goes.
func HelperEnv(role string) []string {
	env := []string{RoleEnv + "=" + role, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
	if dir := os.Getenv("GOCOVERDIR"); dir != "" {
		env = append(env, "GOCOVERDIR="+dir)
	}
	return env
}

// hostProc is one running host, as its daemon sees it.
type hostProc struct {
	plan layout.Host
	cmd  *exec.Cmd
	conn net.Conn
	out  *json.Encoder
	done chan struct{} // closed when the host is gone

	answers chan hostinit.Event // what was asked for
	asking  chan struct{}       // holds a token while a request is out

	mu       sync.Mutex
	id       owner.Identity
	libvirtd string // "running", "stopped", or how it ended
	ended    chan struct{}
}

// startHost starts the first process of a host in namespaces of its own.
func startHost(plan layout.Plan, h layout.Host, log *os.File) (*hostProc, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("start host %s: %w", h.Name, err)
	}
	near, far := os.NewFile(uintptr(fds[0]), "host"), os.NewFile(uintptr(fds[1]), "daemon")
	defer far.Close()
	conn, err := net.FileConn(near)
	near.Close()
	if err != nil {
		return nil, fmt.Errorf("start host %s: %w", h.Name, err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{plan.ProcessName(h.Name), plan.Dir}
	cmd.Env = HelperEnv(RoleHost)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{far}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWPID | unix.CLONE_NEWNET,
		Setsid:     true,
	}
	if err := cmd.Start(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("start host %s: %w", h.Name, err)
	}
	p := &hostProc{
		plan: h, cmd: cmd, conn: conn, out: json.NewEncoder(conn), done: make(chan struct{}),
		answers: make(chan hostinit.Event), asking: make(chan struct{}, 1), libvirtd: "stopped",
	}
	go p.read() // ends with the host, and closes done
	return p, nil
}

// read takes the host's events until it is gone.
func (p *hostProc) read() {
	defer close(p.done)
	defer p.conn.Close()
	in := json.NewDecoder(p.conn)
	for {
		var e hostinit.Event
		if in.Decode(&e) != nil {
			break
		}
		if e.Kind == hostinit.EventExited {
			p.setLibvirtd("ended by itself: " + e.Text)
			continue
		}
		p.answers <- e
	}
	p.setLibvirtd("gone with its host")
	_ = p.cmd.Wait() // it was killed or told to end; there is nothing to learn
}

func (p *hostProc) setLibvirtd(state string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.libvirtd = state
	if p.ended != nil {
		close(p.ended)
		p.ended = nil
	}
}

// errHostGone is the error for a host whose first process has ended.
var errHostGone = errors.New("the host is down")

// ask sends a request and waits for its answer.
func (p *hostProc) ask(ctx context.Context, r hostinit.Request) (hostinit.Event, error) {
	select {
	case p.asking <- struct{}{}:
	case <-ctx.Done():
		return hostinit.Event{}, context.Cause(ctx)
	}
	defer func() { <-p.asking }()
	if err := p.out.Encode(r); err != nil {
		return hostinit.Event{}, errHostGone
	}
	// An answer comes for sure, or the host ends: the context does not cut the
	// wait short, or the answer would be taken for that of the next request.
	select {
	case e := <-p.answers:
		if e.Kind == hostinit.EventFailed {
			return e, errors.New(e.Text)
		}
		return e, nil
	case <-p.done:
		return hostinit.Event{}, errHostGone
	}
}

// setup makes the host's directories and mounts and learns its process number.
func (p *hostProc) setup(ctx context.Context, plan layout.Plan) error {
	for _, dir := range hostinit.Directories(p.plan) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("host %s: %w", p.plan.Name, err)
		}
	}
	e, err := p.ask(ctx, hostinit.Request{Op: hostinit.OpSetup, Plan: &plan, Host: p.plan.Name})
	if err != nil {
		return fmt.Errorf("host %s: %w", p.plan.Name, err)
	}
	id, err := owner.Of(e.PID)
	if err != nil {
		return fmt.Errorf("host %s: %w", p.plan.Name, err)
	}
	p.mu.Lock()
	p.id = id
	p.mu.Unlock()
	return nil
}

// launch starts libvirtd and waits until it answers.
func (p *hostProc) launch(ctx context.Context) error {
	if _, err := p.ask(ctx, hostinit.Request{Op: hostinit.OpLaunch}); err != nil {
		return fmt.Errorf("start libvirtd of host %s: %w", p.plan.Name, err)
	}
	ended := make(chan struct{})
	p.mu.Lock()
	p.libvirtd, p.ended = "running", ended
	p.mu.Unlock()
	if err := awaitLibvirt(ctx, p.plan.Socket(), ended); err != nil {
		return fmt.Errorf("start libvirtd of host %s: %w: %s", p.plan.Name, err, p.libvirtdLog())
	}
	return nil
}

// libvirtdLog is the end of what libvirtd last said.
func (p *hostProc) libvirtdLog() string {
	var said []string
	for _, name := range []string{"libvirtd.stderr", "libvirtd.log"} {
		said = append(said, logtail.Read(filepath.Join(p.plan.Log(), name)))
	}
	return strings.Join(said, "; ")
}

// stop ends libvirtd; guests go on.
func (p *hostProc) stop(ctx context.Context) error {
	if _, err := p.ask(ctx, hostinit.Request{Op: hostinit.OpStop}); err != nil {
		return fmt.Errorf("stop libvirtd of host %s: %w", p.plan.Name, err)
	}
	p.setLibvirtd("stopped")
	return nil
}

// kill ends the host as a power failure would, and waits until it is gone.
func (p *hostProc) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

func (p *hostProc) status() (id owner.Identity, libvirtd string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.id, p.libvirtd
}
