package sys

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// InNetns runs fn in the network namespace that the file names (/proc/PID/ns/net, /run/netns/NAME) and returns when fn
// has. Sockets that fn makes stay in the namespace wherever they are used. fn must not start goroutines that open
// sockets: they would run on other threads, in other namespaces. It needs CAP_SYS_ADMIN, also over the namespace.
//
// The thread goes back to the namespace it came from. Only if that fails is it thrown away, so that nothing ever runs
// in a wrong namespace. Throwing it away always would be simpler, and would kill children that were started from the
// same thread with Pdeathsig.
func InNetns(file string, fn func()) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		back, err := enterNetns(file)
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		fn()
		if unix.Setns(int(back.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread() // else the runtime ends the thread together with this goroutine
		}
		_ = back.Close() // only entered
		done <- nil
	}()
	return <-done
}

// enterNetns moves this thread and gives the way back, which the caller closes.
func enterNetns(file string) (back *os.File, err error) {
	to, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	defer func() { _ = to.Close() }() // only entered
	back, err = os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open our own network namespace: %w", err)
	}
	if err := unix.Setns(int(to.Fd()), unix.CLONE_NEWNET); err != nil {
		_ = back.Close() // it was not needed
		return nil, fmt.Errorf("enter network namespace %s: %w", file, err)
	}
	return back, nil
}
