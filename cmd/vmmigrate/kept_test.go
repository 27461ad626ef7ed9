package main

import (
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/journal"
)

// TestEndFromTheJournal: a watcher that was stopped for so long that the last line was not kept for it tells how the
// migration ended, instead of that nobody knows.
func TestEndFromTheJournal(t *testing.T) {
	o := order{ID: "m-1", StateDir: t.TempDir()}
	began := time.Now()
	if e := kept(t.Context(), o, began); e != nil {
		t.Errorf("without a journal: %+v", e)
	}
	db, err := journal.Open(t.Context(), o.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	l, err := db.Begin(t.Context(), migrate.Entry{ID: "m-1", Domain: "web", Source: "a", Dest: "b", Engine: migrate.EngineNative, Started: began})
	if err != nil {
		t.Fatal(err)
	}
	if e := kept(t.Context(), o, began); e != nil {
		t.Errorf("while it runs: %+v", e)
	}
	last := migrate.Record{At: time.Now(), Phase: migrate.PhaseEnded, Owner: migrate.OwnerDestination, Committed: true, Landed: true,
		Outcome: migrate.OutcomeCompleted, Final: true}
	if err := l.Write(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	report := migrate.Report{Schema: migrate.ReportSchema, Migration: "m-1", Outcome: migrate.OutcomeCompleted, Owner: migrate.OwnerDestination,
		Engine: migrate.EngineNative, Strategy: migrate.StrategyHybrid}
	if err := l.End(t.Context(), report, true); err != nil {
		t.Fatal(err)
	}
	l.Close()
	if e := kept(t.Context(), o, began); e == nil || e.Code != exitDone || e.Report == nil {
		t.Errorf("after its end: %+v", e)
	}
	if e := kept(t.Context(), o, time.Now().Add(time.Second)); e != nil {
		t.Errorf("the end of an earlier coordinator: %+v", e)
	}
}
