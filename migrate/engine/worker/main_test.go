package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/precopy/track/tracktest"
)

// TestMain makes the test binary another process that a test needs, if it is started as one.
func TestMain(m *testing.M) {
	if tracktest.Child() {
		return
	}
	if life := os.Getenv(helperEnv); life != "" {
		if err := help(strings.Fields(life)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// helperEnv makes the test binary a helper of a test, which says "there" when it has done what these words tell it:
//
//	hold PID      trace the process of that number; 0 is none
//	lock PID      take the source's lock of the guest of that number
//	listen @NAME  listen at a unix socket
//	dial PATH     connect to one
const helperEnv = "VMMIGRATE_TEST_HELPER"

// helper is this binary as such a process; the test starts it.
func helper(life ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), helperEnv+"="+strings.Join(life, " "))
	cmd.Stderr = os.Stderr
	return cmd
}

// help is a helper's life.
func help(life []string) error {
	var c io.Closer
	var err error
	switch do, what := life[0], life[1]; do {
	case "hold":
		err = hold(what)
	case "lock":
		err = holdLock(what)
	case "listen":
		c, err = net.Listen("unix", what)
	case "dial":
		c, err = net.Dial("unix", what)
	default:
		err = fmt.Errorf("no such helper: %q", life)
	}
	if err != nil {
		return err
	}
	fmt.Println("there")
	if c == nil { // it is killed
		for {
			_ = syscall.Pause() // a signal of the Go runtime ends it
		}
	}
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test ends
	return c.Close()
}

// hold traces a process from a thread that is not this process's first, as an agent may, until the process ends.
func hold(number string) error {
	pid, err := strconv.Atoi(number)
	if err != nil || pid == 0 {
		return err
	}
	runtime.LockOSThread() // if it is the first, the goroutine below gets another
	held := make(chan error)
	go func() {
		runtime.LockOSThread()
		held <- errors.Join(unix.PtraceSeize(pid), unix.PtraceInterrupt(pid))
		select {}
	}()
	return <-held
}

func holdLock(number string) error {
	pid, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	_, err = takeLock(context.Background(), migrate.SideSource, pid, false)
	return err
}
