package sys

import (
	"errors"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// A process has ended as soon as it has, and not only when its parent asks: until then /proc has its number still.
func TestT1ProcessThatEndedIsNotAlive(t *testing.T) {
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := OpenProcess(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(p.Close(), p.Close()); err != nil {
			t.Error(err)
		}
		if p.Alive() {
			t.Error("alive when closed")
		}
	}()
	if !p.Alive() || p.PID() != cmd.Process.Pid {
		t.Fatal("it has not ended")
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := waitid(cmd.Process.Pid, new(unix.Siginfo), unix.WEXITED|unix.WNOWAIT); err != nil { // leaves the news to Wait
		t.Fatal(err)
	}
	if p.Alive() {
		t.Error("alive though it has ended")
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if p.Alive() {
		t.Error("alive though it is gone")
	}
	if _, err := OpenProcess(cmd.Process.Pid); !errors.Is(err, unix.ESRCH) {
		t.Errorf("open it again: %v", err)
	}
	if self, err := OpenProcess(os.Getpid()); err != nil || !self.Alive() || self.Close() != nil {
		t.Errorf("we ourselves: %v", err)
	}
}
