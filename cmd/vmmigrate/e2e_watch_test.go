package main

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/sample"
	"github.com/vmmigrate/vmmigrate/migrate"
)

// watchedLines are what watch wrote of the guest.
func (x *bench) watchedLines(out string) (all []sampleLine) {
	x.t.Helper()
	for dec := json.NewDecoder(bytes.NewReader([]byte(out))); dec.More(); {
		var l sampleLine
		if err := dec.Decode(&l); err != nil {
			x.t.Fatal(err)
		}
		all = append(all, l)
	}
	return all
}

// TestT4WatchGuest: what a guest uses is shown and recorded, and nothing is measured in it while it is migrated.
func TestT4WatchGuest(t *testing.T) {
	x := newBench(t)
	from := x.settle()
	cpu, written := 0, 0
	for _, l := range x.watchedLines(x.ok("watch", guestName, "-c", x.uris[from], "--for", "4s")) {
		if l.CPU != nil && *l.CPU > 0 && *l.CPU <= 1 {
			cpu++
		}
		if l.Dirty != nil && l.Dirty.Bytes > 0 && l.Dirty.Mode == "page-sampling" {
			written++
		}
	}
	if cpu == 0 || written == 0 {
		t.Errorf("its CPU is known %d times, what it wrote %d times", cpu, written)
	}

	x.ok("watch", "--daemon", "-c", x.uris[from], "--for", "4s")
	table, err := sample.ReadCSV(bytes.NewReader([]byte(x.ok("watch", guestName, "--export", "-"))), sample.CSVOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if s := table.Series[0]; s.Known() == 0 || s.Step != time.Second {
		t.Errorf("%+v", table)
	}

	p := x.start(nil, x.migrateArgs(from, "--strategy", "precopy", "--bandwidth", "8MiB")...)
	p.until("copying", func(l migrate.Progress) bool { return l.Phase == migrate.PhaseCopying })
	told := 0
	for _, l := range x.watchedLines(x.ok("watch", guestName, guestName, "-c", x.uris[from], "--for", "4s")) {
		if l.Migrating {
			told++
		}
		if l.Dirty != nil || l.Migrating && l.CPU != nil {
			t.Errorf("measured during a migration: %+v", l)
		}
	}
	if told == 0 {
		t.Error("it does not say that the guest is being migrated")
	}
	x.ok("cancel", guestName)
	p.ends(exitSource)
	x.at(from)
}
