package journal

import (
	"errors"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// TestBusyNamesTheOwner: who is refused the guest is told who owns it, which past the other's commit is not the source.
func TestBusyNamesTheOwner(t *testing.T) {
	j := open(t, t.TempDir())
	first := begin(t, j, "m-1")
	want := func(owner migrate.Owner) {
		t.Helper()
		_, err := j.Begin(t.Context(), entry("m-2"))
		var oe *migrate.OpError
		if !errors.Is(err, migrate.ErrBusy) || !errors.As(err, &oe) || oe.Owner != owner {
			t.Errorf("owner %v, want %v: %v", oe.Owner, owner, err)
		}
	}
	want(migrate.OwnerSource)
	if err := first.Write(t.Context(), record(migrate.PhasePaging, migrate.OwnerDestination, migrate.StepPage)); err != nil {
		t.Fatal(err)
	}
	want(migrate.OwnerDestination)
	first.Close()
	want(migrate.OwnerDestination) // left unfinished
}
