package main

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/sample"
	"github.com/vmmigrate/vmmigrate/internal/need"
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

// TestT4WatchCounts: a tracker of ours counts what a guest writes, in all windows at once. A migration finds nothing of it in its
// way, and neither end's QEMU keeps anything.
func TestT4WatchCounts(t *testing.T) {
	need.UFFD(t)
	x := newBench(t)
	from := x.settle()
	windows := map[int64]int{}
	for _, l := range x.watchedLines(x.ok("watch", guestName, "--agent", "-c", x.uris[from], "--for", "7s")) {
		if l.Dirty != nil && l.Dirty.Mode == "uffd-wp" && l.Dirty.Bytes > 0 && l.Dirty.Bytes < guestMemory && l.Dirty.Bytes%4096 == 0 {
			windows[l.Dirty.WindowMS]++
		}
	}
	if windows[1000] < 2 || windows[2000] < 1 {
		t.Errorf("windows by their length in ms: %v", windows)
	}
	if n := x.userfaults(from); n != 0 {
		t.Errorf("%d userfaultfds are left in QEMU", n)
	}

	p := x.start(nil, "watch", guestName, guestName, "--agent", "-c", x.uris[from])
	x.until("the tracker is in QEMU", func() bool { return x.userfaults(from) == 1 })
	to := other(from)
	x.ok(x.migrateArgs(from, "--strategy", "precopy")...)
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Error(err)
	}
	p.ends(exitDone)
	x.at(to)
	x.verify()
	if n := x.userfaults(to); n != 0 {
		t.Errorf("%d userfaultfds are in QEMU at the destination", n)
	}
}
