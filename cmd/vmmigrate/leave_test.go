package main

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// TestInterrupt: Ctrl-C cancels as long as that can succeed, and the watcher says nothing of the owner that it does not know.
func TestInterrupt(t *testing.T) {
	for _, c := range []struct {
		owner  migrate.Owner
		leaves int // at which Ctrl-C; 0 never
		says   string
	}{
		{0, 0, "stays on the source"},
		{migrate.OwnerSource, 0, "stays on the source"},
		{migrate.OwnerUnknown, 2, "may come too late"},
		{migrate.OwnerDestination, 1, "The destination owns"},
	} {
		child := exec.Command("sleep", "60") // SIGINT, which the watcher sends, ends it
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		var said bytes.Buffer
		w := &watcher{g: &globals{stderr: &said}, o: order{ID: "m-1"}, child: child, owner: c.owner}
		left := 0
		for i := 1; i <= 3 && left == 0; i++ {
			if w.interrupt() {
				left = i
				w.sayLeft()
			}
		}
		if left != c.leaves || !strings.Contains(said.String(), c.says) {
			t.Errorf("%s: left at %d, said %q", c.owner, left, said.String())
		}
		if c.owner == migrate.OwnerUnknown && strings.Contains(said.String(), "The destination owns") {
			t.Errorf("it claims an owner: %q", said.String())
		}
		_ = child.Process.Kill()
		_ = child.Wait()
	}
}

// TestCancelled: only a cancelled migration makes cancel succeed.
func TestCancelled(t *testing.T) {
	for _, c := range []struct {
		outcome migrate.Outcome
		owner   migrate.Owner
		code    int
	}{
		{migrate.OutcomeCancelled, migrate.OwnerSource, exitDone},
		{migrate.OutcomeCompleted, migrate.OwnerDestination, exitFailure},
		{migrate.OutcomeFailed, migrate.OwnerSource, exitSource},
		{migrate.OutcomePaused, migrate.OwnerDestination, exitPaused},
		{migrate.OutcomeUnknown, migrate.OwnerUnknown, exitUnknown},
		{0, migrate.OwnerSource, exitUnknown},
	} {
		var out bytes.Buffer
		err := cancelled(&out, migrate.Saved{Entry: migrate.Entry{ID: "m-1"}, Last: migrate.Record{Outcome: c.outcome, Owner: c.owner, Final: true}})
		if got := exitCode(err); got != c.code {
			t.Errorf("%s, %s: exit code %d, want %d (%v)", c.outcome, c.owner, got, c.code, err)
		}
	}
}
