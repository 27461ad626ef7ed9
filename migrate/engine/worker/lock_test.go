package worker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/migrate"
)

// lockEnv makes the test's program take the source's lock of the guest of that number, and stand still.
const lockEnv = "VMMIGRATE_TEST_LOCK"

// TestHoldALock is the other process of the test below.
func TestHoldALock(t *testing.T) {
	pid, err := strconv.Atoi(os.Getenv(lockEnv))
	if err != nil {
		t.Skip("a helper of another test")
	}
	if _, err := takeLock(t.Context(), migrate.SideSource, pid, false); err != nil {
		t.Fatal(err)
	}
	fmt.Println("locked")
	for {
		_ = syscall.Pause() // a signal of the Go runtime ends it
	}
}

// An agent that stands still is not given time to clean up: the guest waits meanwhile.
func TestT1AStoppedAgentIsTakenOverFromAtOnce(t *testing.T) {
	need.UFFD(t)
	guest := start(t, exec.Command("sleep", "60"))
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestHoldALock$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", lockEnv, guest.Process.Pid))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	agent := start(t, cmd)
	for lines := bufio.NewScanner(out); lines.Scan() && lines.Text() != "locked"; {
	}
	if err := agent.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for stopped := false; !stopped; {
		if stopped, err = allStopped(agent.Process.Pid); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithTimeout(t.Context(), leaveTime)
	defer stop()
	k, err := takeLock(ctx, migrate.SideSource, guest.Process.Pid, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.release(); err != nil {
		t.Error(err)
	}
}

// An agent that only lingers hears that another wants its place.
func TestALockIsWanted(t *testing.T) {
	pid := -os.Getpid() // nobody's
	k, err := takeLock(t.Context(), migrate.SideDestination, pid, false)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := k.untilWanted(t.Context())
	defer stop()
	if ctx.Err() != nil {
		t.Error("it is wanted by nobody")
	}
	if _, err := takeLock(t.Context(), migrate.SideDestination, pid, true); !errors.Is(err, migrate.ErrBusy) {
		t.Errorf("taken over from the same process: %v", err)
	}
	<-ctx.Done()
	if err := k.release(); err != nil {
		t.Error(err)
	}
}
