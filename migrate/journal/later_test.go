package journal

import (
	"errors"
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// TestAttachKnowsTheLaterOne: m-1 was left before its commit, m-2 took the guest elsewhere and was left after its own.
// By m-1 alone the source, which stands still, would be run beside m-2's destination.
func TestAttachKnowsTheLaterOne(t *testing.T) {
	j := open(t, t.TempDir())
	if err := begin(t, j, "m-1").Close(); err != nil {
		t.Fatal(err)
	}
	second := begin(t, j, "m-2")
	if err := second.Write(t.Context(), record(migrate.PhaseSwitching, migrate.OwnerDestination, migrate.StepCommit)); err != nil {
		t.Fatal(err)
	}
	second.Close()
	_, _, err := j.Attach(t.Context(), "m-1")
	if !errors.Is(err, migrate.ErrBusy) || !strings.Contains(migrate.FixOf(err), "recover m-2") {
		t.Errorf("attached to m-1: %v (%s)", err, migrate.FixOf(err))
	}
	_, l, err := j.Attach(t.Context(), "m-2")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.End(t.Context(), migrate.Report{}, true), l.Close()); err != nil {
		t.Fatal(err)
	}
	if _, l, err = j.Attach(t.Context(), "m-1"); err != nil {
		t.Fatal(err)
	}
	l.Close()
}
