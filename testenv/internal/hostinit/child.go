package hostinit

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// children waits for every process of the PID namespace that has lost its parent,
// which is what process 1 is for, and tells about the ones that it started.
type children struct {
	mu      sync.Mutex
	waiting map[int]chan<- string // by PID; receives how the process ended
}

// start starts a program and returns its PID and a channel that receives, once,
// how it ended.
func (c *children) start(path string, args, env []string, out *os.File) (int, <-chan string, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, nil, fmt.Errorf("start %s: %w", path, err)
	}
	defer null.Close()
	ended := make(chan string, 1)
	// Held until the PID is known, so that reap cannot be faster.
	c.mu.Lock()
	defer c.mu.Unlock()
	p, err := os.StartProcess(path, args, &os.ProcAttr{Env: env, Dir: "/", Files: []*os.File{null, out, out}})
	if err != nil {
		return 0, nil, fmt.Errorf("start %s: %w", path, err)
	}
	pid := p.Pid
	_ = p.Release() // reap waits for it
	c.waiting[pid] = ended
	return pid, ended, nil
}

// reap collects whatever has ended. It is called on each SIGCHLD.
func (c *children) reap() {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		c.mu.Lock()
		if ended, ok := c.waiting[pid]; ok {
			delete(c.waiting, pid)
			ended <- describe(status)
		}
		c.mu.Unlock()
	}
}

func describe(s unix.WaitStatus) string {
	switch {
	case s.Exited():
		return fmt.Sprintf("exit status %d", s.ExitStatus())
	case s.Signaled():
		return fmt.Sprintf("signal %v", s.Signal())
	default:
		return fmt.Sprintf("wait status %#x", int(s))
	}
}
