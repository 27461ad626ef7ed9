package owner

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// sleeper starts a process that lives until it is killed or its input closes.
func sleeper(t *testing.T, argv0, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("cat", dir, "-")
	cmd.Args[0] = argv0
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	return cmd
}

func TestKillEndsAndWaits(t *testing.T) {
	cmd := sleeper(t, "cat", "/dev/null")
	id, err := Of(cmd.Process.Pid)
	if err != nil || !id.Alive() {
		t.Fatalf("%+v, %v, alive: %v", id, err, id.Alive())
	}
	if err := id.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if id.Alive() {
		t.Error("alive after Kill")
	}
	if err := syscall.Kill(id.PID, 0); err == nil {
		t.Error("the process is still in the list")
	}
	if err := id.Kill(t.Context()); err != nil {
		t.Errorf("killing what is gone: %v", err)
	}
}

func TestKillSparesStrangers(t *testing.T) {
	cmd := sleeper(t, "cat", "/dev/null")
	id, err := Of(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	for name, stranger := range map[string]Identity{
		"started later":  {PID: id.PID, Start: id.Start - 1, Boot: id.Boot},
		"another boot":   {PID: id.PID, Start: id.Start, Boot: "x"},
		"no process":     {},
		"negative means": {PID: -1, Start: id.Start, Boot: id.Boot},
	} {
		if stranger.Alive() {
			t.Errorf("%s: counts as alive", name)
		}
		if err := stranger.Kill(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !id.Alive() {
		t.Error("a process with the same number was killed")
	}
}

func TestSelf(t *testing.T) {
	id, err := Self()
	if err != nil || id.PID != os.Getpid() || !id.Alive() {
		t.Errorf("Self: %+v, %v", id, err)
	}
}

func TestStartTimeCountsFromTheEnd(t *testing.T) {
	rest := " S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 0 0"
	for _, name := range []string{"(cat)", "(a) b (c d)", "())"} {
		got, err := startTime([]byte("7 " + name + rest))
		if err != nil || got != 4242 {
			t.Errorf("%s: %d, %v", name, got, err)
		}
	}
	for _, bad := range []string{"", "7 cat", "7 (cat) S 1"} {
		if _, err := startTime([]byte(bad)); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	file := dir + "/f"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := sleeper(t, "vml-find-test", file)
	sleeper(t, "vml-find-test", "/dev/null")
	sleeper(t, "other", file)
	found, err := Find("vml-find-test", file)
	if err != nil || len(found) != 1 || found[0].PID != cmd.Process.Pid {
		t.Errorf("found %+v, %v; want only %d", found, err, cmd.Process.Pid)
	}
}
