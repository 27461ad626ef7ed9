package worker

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate/agent"
)

// A QEMU that has ended is found by nobody, whether its parent has heard of it or not: its number is anybody's next.
func TestT1AnEndedQEMUIsNotFound(t *testing.T) {
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	g := agent.Guest{Name: "web", PID: cmd.Process.Pid}
	q, err := findQEMU(t.Context(), g)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	for q.Alive() {
		if err := syscall.Kill(cmd.Process.Pid, 0); err != nil {
			t.Fatalf("its number is free before its parent has heard of it: %v", err)
		}
	}
	if _, err := findQEMU(t.Context(), g); !errors.Is(err, os.ErrProcessDone) || !strings.Contains(err.Error(), `"web"`) {
		t.Errorf("one that waits for its parent: %v", err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := findQEMU(t.Context(), g); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("one that is gone: %v", err)
	}
}
