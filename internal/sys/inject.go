package sys

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"syscall"
)

// RemoteError is the answer of a system call that was made inside another process and failed there. Whatever else goes
// wrong with an injection is another kind of error.
type RemoteError struct {
	Call  string
	Errno syscall.Errno
}

// Error names the call, and that it was made elsewhere.
func (e *RemoteError) Error() string {
	return fmt.Sprintf("%s inside the process: %s", e.Call, e.Errno.Error())
}

// Unwrap gives the errno.
func (e *RemoteError) Unwrap() error { return e.Errno }

// thread is what /proc/PID/task/TID says of a thread.
type thread struct {
	tid     int
	comm    string
	state   byte // R, S, D, T, t, Z, X as in proc(5)
	leader  bool // the thread whose number is the process's
	inIoctl bool // asleep in ioctl(2), or running a vCPU by it
}

// byQuiet sorts threads, which come in the order of their creation, so that the one whose pause is noticed least comes
// first, and leaves out those that ended. In QEMU it is the one that frees memory after a grace period. It is named
// call_rcu only where QEMU was told to name its threads before it was started; but it always is the first that QEMU
// starts, and mostly asleep. A vCPU comes last, before it the main loop.
func byQuiet(threads []thread) []thread {
	alive := slices.DeleteFunc(slices.Clone(threads), func(t thread) bool { return t.state == 'Z' || t.state == 'X' })
	slices.SortStableFunc(alive, func(a, b thread) int { return cmp.Compare(noise(a), noise(b)) })
	return alive
}

// noise ranks a thread for byQuiet: the less the better.
func noise(t thread) int {
	switch {
	case t.state == 'D': // it may not stop for a long time
		return 5
	case strings.HasPrefix(t.comm, "CPU "), strings.HasPrefix(t.comm, "ALL CPUs"), t.inIoctl:
		return 4
	case t.leader:
		return 3
	case t.comm == "call_rcu":
		return 0
	case t.state == 'R':
		return 2
	}
	return 1
}

// parseState finds the state in /proc/PID/stat: the letter behind the name, which is in parentheses and may hold some.
func parseState(stat string) (byte, bool) {
	i := strings.LastIndexByte(stat, ')')
	if i < 0 || i+2 >= len(stat) || stat[i+1] != ' ' {
		return 0, false
	}
	return stat[i+2], true
}

// parseCall reads the number in /proc/PID/syscall; "running" and all else that is no number is -1.
func parseCall(text string) int {
	nr := -1
	if _, err := fmt.Sscanf(text, "%d", &nr); err != nil {
		return -1
	}
	return nr
}
