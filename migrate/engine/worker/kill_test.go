package worker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/internal/need"
)

// holdEnv makes the test's program trace the process of that number until it is killed; of 0 it traces nothing.
const holdEnv = "VMMIGRATE_TEST_HOLD"

// TestHoldAThread is the other process of the test below.
func TestHoldAThread(t *testing.T) {
	pid, err := strconv.Atoi(os.Getenv(holdEnv))
	if err != nil {
		t.Skip("a helper of another test")
	}
	runtime.LockOSThread()
	if pid > 0 {
		if err := errors.Join(unix.PtraceSeize(pid), unix.PtraceInterrupt(pid)); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Println("holding")
	for {
		_ = syscall.Pause() // a signal of the Go runtime ends it
	}
}

// An agent that has a thread of QEMU in hand is not killed; one that has not is.
func TestT1AnAgentIsNotKilledWhileItHoldsQEMU(t *testing.T) {
	need.UFFD(t)
	for _, holds := range []bool{true, false} {
		t.Run(fmt.Sprint(holds), func(t *testing.T) {
			guest := start(t, exec.Command("sleep", "60"))
			held := 0
			if holds {
				held = guest.Process.Pid
			}
			cmd := exec.Command("/proc/self/exe", "-test.run=^TestHoldAThread$")
			cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", holdEnv, held))
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			agent := start(t, cmd)
			for lines := bufio.NewScanner(out); lines.Scan() && lines.Text() != "holding"; {
			}
			ctx, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer stop()
			if !holds {
				ctx = t.Context()
			}
			err = killIdle(ctx, agent.Process.Pid, guest.Process.Pid)
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
