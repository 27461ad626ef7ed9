package sys

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// InNetns runs fn in the network namespace that the file names (/proc/PID/ns/net, /run/netns/NAME) and returns when fn
// has. The thread that entered the namespace ends with fn and is never used for anything else; sockets that fn made
// stay in the namespace wherever they are used. fn must not start goroutines that open sockets: they would run on other
// threads, in other namespaces. It needs CAP_SYS_ADMIN, also over the namespace.
func InNetns(file string, fn func()) error {
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the runtime ends the thread together with this goroutine.
		runtime.LockOSThread()
		err := enterNetns(file)
		if err == nil {
			fn()
		}
		done <- err
	}()
	return <-done
}

func enterNetns(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer func() { _ = f.Close() }() // only read from
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", file, err)
	}
	return nil
}
