package migratetest

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/vmmigrate/vmmigrate/migrate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestWorldNotices: each of the faults that a World is there to notice.
func TestWorldNotices(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(*World)
		fine bool
	}{
		"nothing wrong":       {func(w *World) { w.Commit(); w.Source.Set(migrate.RunMigrated); w.Dest.Set(migrate.RunRunning) }, true},
		"both run":            {func(w *World) { w.Commit(); w.Dest.Set(migrate.RunRunning) }, false},
		"both, one in paging": {func(w *World) { w.Commit(); w.Dest.Set(migrate.RunPostcopy) }, false},
		"no commit":           {func(w *World) { w.Source.Set(migrate.RunMigrated); w.Dest.Set(migrate.RunRunning) }, false},
		"behind its back": {func(w *World) {
			w.Commit()
			w.Source.Set("")
			w.Dest.Set(migrate.RunRunning)
			w.Dest.Set("")
			w.Source.Set(migrate.RunRunning)
		}, false},
		"a source that serves": {func(w *World) { w.Commit(); w.Source.Set(migrate.RunPostcopy); w.Dest.Set(migrate.RunPostcopy) }, true},
	} {
		w := NewWorld("web")
		c.do(w)
		if err := w.Err(); (err == nil) != c.fine {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestCutIsForGood: a connection that was cut stays dead; a new one lives.
func TestCutIsForGood(t *testing.T) {
	w := NewWorld("web")
	w.Source.Cut(true)
	if _, err := w.Dial(t.Context(), w.Source.URI()); err == nil {
		t.Error("dialled a host that is cut off")
	}
	w.Source.Cut(false)
	if _, err := w.Source.State(t.Context(), "web"); err == nil {
		t.Error("the old connection came back")
	}
	h, err := w.Dial(t.Context(), w.Source.URI())
	if err != nil {
		t.Fatal(err)
	}
	if st, err := h.State(t.Context(), "web"); err != nil || st.Run != migrate.RunRunning {
		t.Error(st, err)
	}
}
