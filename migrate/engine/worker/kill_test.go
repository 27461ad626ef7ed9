package worker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/need"
)

// An agent that has a thread of QEMU in hand is not killed; one that has not is.
func TestT1AnAgentIsNotKilledWhileItHoldsQEMU(t *testing.T) {
	need.UFFD(t)
	for i := range 4 {
		holds, any := i%2 == 0, i/2 == 0
		t.Run(fmt.Sprintf("holds %t, any %t", holds, any), func(t *testing.T) {
			guest := start(t, exec.Command("sleep", "60"))
			held := 0
			if holds {
				held = guest.Process.Pid
			}
			agent := startHelper(t, helper("hold", strconv.Itoa(held)))
			ctx, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer stop()
			if !holds {
				ctx = t.Context()
			}
			of := guest.Process.Pid
			if any {
				of = 0
			}
			err := killIdle(ctx, agent.Process.Pid, of)
			if holds != errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("%v", err)
			}
			if holds {
				if err := agent.Process.Signal(syscall.Signal(0)); err != nil {
					t.Fatalf("it was killed: %v", err)
				}
				return
			}
			if err := agent.Wait(); err == nil || agent.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("it ended by %v", err)
			}
		})
	}
}

func start(t *testing.T, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	})
	return cmd
}

// startHelper starts a helper and waits until it has done its part.
func startHelper(t *testing.T, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	start(t, cmd)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if lines.Text() == "there" {
			return cmd
		}
	}
	t.Fatal("the helper did not come to its part")
	return nil
}
