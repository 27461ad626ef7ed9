package main

import (
	"log/slog"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/journal"
)

// TestSignalPastTheCommit: a signal ends the context of a coordinator that is not in the journal yet, leaves a request
// there before the commit, and past it changes nothing: the coordinator must not leave the guest half-way.
func TestSignalPastTheCommit(t *testing.T) {
	db, err := journal.Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	signalled := func() (stopped bool) {
		askCancel(t.Context(), db, "m-1", slog.New(slog.DiscardHandler), func() { stopped = true })
		return stopped
	}
	if !signalled() {
		t.Error("before the journal: it goes on")
	}
	l, err := db.Begin(t.Context(), migrate.Entry{ID: "m-1", Domain: "web", Source: "a", Dest: "b", Engine: migrate.EngineNative, Started: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	stopped := signalled()
	if asked, err := l.CancelAsked(t.Context()); stopped || !asked || err != nil {
		t.Errorf("before the commit: stopped %v, asked %v, %v", stopped, asked, err)
	}
	r := migrate.Record{At: time.Now(), Phase: migrate.PhasePaging, Owner: migrate.OwnerDestination, Step: migrate.StepPage, Committed: true, Landed: true}
	if err := l.Write(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if signalled() {
		t.Error("past the commit: the coordinator is told to leave")
	}
}
