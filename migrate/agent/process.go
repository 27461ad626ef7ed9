package agent

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// grace is how long a process may take to end after its connection has.
const grace = 2 * time.Second

// process is a child that speaks over its standard input and output. One goroutine waits for it; that ends when the child
// does, which for an agent that stays for its guest is later than anything else here.
type process struct {
	cmd   *exec.Cmd
	said  *tail
	log   *slog.Logger
	ended chan struct{}
}

// start runs cmd in a session of its own, out of reach of a terminal's Ctrl-C, with one socket as its standard input and
// output, and gives the other end, which the caller closes.
func start(cmd *exec.Cmd, log *slog.Logger) (net.Conn, *process, error) {
	ours, theirs, err := socketpair()
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket for %s: %w", cmd.Path, err)
	}
	p := &process{cmd: cmd, said: &tail{log: log}, log: log, ended: make(chan struct{})}
	cmd.Stdin, cmd.Stdout = theirs, theirs
	if cmd.Stderr == nil {
		cmd.Stderr = p.said
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.WaitDelay = time.Second // whoever else has its standard error may keep it
	err = cmd.Start()
	_ = theirs.Close() // the child has its own
	if err != nil {
		_ = ours.Close() // nobody is there
		return nil, nil, err
	}
	go func() {
		defer close(p.ended)
		err := cmd.Wait()
		log.Debug("agent's process ended", "pid", cmd.Process.Pid, "err", err)
	}()
	return ours, p, nil
}

func socketpair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	mine, theirs := os.NewFile(uintptr(fds[0]), "agent"), os.NewFile(uintptr(fds[1]), "agent")
	conn, err := net.FileConn(mine)
	_ = mine.Close() // FileConn has its own
	if err != nil {
		_ = theirs.Close() // nobody has it
		return nil, nil, err
	}
	return conn, theirs, nil
}

// leave waits for a child whose connection is closed, for a moment. One that stays is left alone.
func (p *process) leave() error {
	select {
	case <-p.ended:
	case <-time.After(grace):
		p.log.Info("the agent stays for its guest", "pid", p.cmd.Process.Pid)
	}
	return nil
}

// finish waits for a child that was of no use, and ends it if it does not by itself.
func (p *process) finish() {
	select {
	case <-p.ended:
	case <-time.After(grace):
		_ = p.cmd.Process.Kill() // it may just have ended
		<-p.ended
	}
}

// status is the exit status of a child that has ended; -1 if a signal ended it.
func (p *process) status() int { return p.cmd.ProcessState.ExitCode() }

// explain adds the child's last words to an error. The child has ended.
func (p *process) explain(err error) error {
	if words := p.said.last(); words != "" {
		return fmt.Errorf("%w; it said: %s", err, words)
	}
	return fmt.Errorf("%w; %s", err, p.cmd.ProcessState)
}

// tail keeps the end of what a child says, and passes it on line by line.
type tail struct {
	log *slog.Logger
	mu  sync.Mutex
	b   []byte
	cut []byte // a line that has not ended
}

const tailSize = 4096

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	t.b = t.b[max(0, len(t.b)-tailSize):]
	t.cut = append(t.cut, p...)
	for {
		l, rest, ok := bytes.Cut(t.cut, []byte("\n"))
		if !ok {
			t.cut = t.cut[max(0, len(t.cut)-tailSize):]
			return len(p), nil
		}
		t.log.Debug("agent says", "line", string(l))
		t.cut = rest
	}
}

// last is the last few lines, on one.
func (t *tail) last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(strings.ToValidUTF8(string(t.b), "?")), "\n")
	return strings.Join(lines[max(0, len(lines)-4):], " / ")
}
