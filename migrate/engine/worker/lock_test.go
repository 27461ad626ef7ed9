package worker

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/migrate"
)

// An agent that stands still is not given time to clean up: the guest waits meanwhile.
func TestT1AStoppedAgentIsTakenOverFromAtOnce(t *testing.T) {
	need.UFFD(t)
	guest := start(t, exec.Command("sleep", "60"))
	agent := startHelper(t, helper("lock", strconv.Itoa(guest.Process.Pid)))
	if err := agent.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for stopped := false; !stopped; {
		var err error
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
