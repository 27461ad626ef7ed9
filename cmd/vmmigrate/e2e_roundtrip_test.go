package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// roundsEnv makes the guest go to and fro that many times instead of defaultRounds.
const roundsEnv = "VMMIGRATE_E2E_ROUNDS"

const defaultRounds = 4

func rounds(t *testing.T) int {
	t.Helper()
	text := os.Getenv(roundsEnv)
	if text == "" {
		return defaultRounds
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q is no number of rounds", roundsEnv, text)
	}
	return n
}

// moveFlags move the guest with all that belongs to it, so that nothing is left behind.
var moveFlags = []string{"--copy-storage-all", "--persistent", "--undefinesource"}

// migrateArgs is the command line that moves the guest from a host to the other one.
func (x *bench) migrateArgs(from string, more ...string) []string {
	args := append([]string{"migrate", "-c", x.uris[from], guestName, x.uris[other(from)]}, moveFlags...)
	return append(append(args, "--progress", "json", "-o", "json"), more...)
}

// There and back with each strategy, and verified each time; then plain virsh moves the same guest.
func TestT4ThereAndBack(t *testing.T) {
	x := newBench(t)
	x.guard()
	at := x.where()
	strategies := []string{"precopy", "postcopy", "hybrid", "auto"}
	for i := range rounds(t) {
		strategy := strategies[i%len(strategies)]
		t.Run(fmt.Sprintf("%d-%s", i+1, strategy), func(t *testing.T) {
			y := x.in(t)
			file := filepath.Join(t.TempDir(), "report.json")
			p := y.start(nil, y.migrateArgs(at, "--strategy", strategy, "--report", file)...)
			p.ends(exitDone)
			at = other(at)
			y.at(at)
			checkReport(t, p, strategy, file)
			checkProgress(t, p)
			y.checkHistory(p.report())
		})
	}
	t.Run("virsh", func(t *testing.T) {
		y := x.in(t)
		for range 2 {
			// virsh drives the migration from here, where the migration network is not; so the hosts do it.
			y.virsh(at, "migrate", "--live", "--p2p", "--copy-storage-all", "--persistent", "--undefinesource", guestName, y.hosts[other(at)].TLSURI())
			at = other(at)
			y.at(at)
		}
	})
}

// checkReport holds the report to its schema and to what must be true of a migration that completed.
func checkReport(t *testing.T, p *proc, strategy, file string) {
	t.Helper()
	r := p.report()
	conform(t, migrate.ReportJSONSchema(), p.stdout())
	if r.Outcome != migrate.OutcomeCompleted || r.Owner != migrate.OwnerDestination || r.Error != nil {
		t.Errorf("outcome %s, owner %s, error %+v", r.Outcome, r.Owner, r.Error)
	}
	if strategy != "auto" && string(r.Strategy) != strategy || r.Strategy == migrate.StrategyAuto {
		t.Errorf("strategy %s, asked for %s", r.Strategy, strategy)
	}
	if r.TotalMS == nil || r.DowntimeMS == nil || *r.DowntimeMS <= 0 || *r.DowntimeMS > *r.TotalMS {
		t.Fatalf("total and downtime do not fit: %s", p.stdout())
	}
	sum := 0.0
	for _, ms := range r.DowntimeParts {
		sum += ms
	}
	if len(r.DowntimeParts) == 0 || math.Abs(sum-*r.DowntimeMS) > 0.01 {
		t.Errorf("the parts of the downtime %v add up to %.3f, not %.3f", r.DowntimeParts, sum, *r.DowntimeMS)
	}
	if r.RAM == nil || r.RAM.TotalBytes == nil || *r.RAM.TotalBytes < guestMemory || r.RAM.SentBytes == nil || *r.RAM.SentBytes == 0 {
		t.Errorf("RAM: %+v", r.RAM)
	}
	if len(r.Disks) != 1 || r.Disks[0].Bytes != guestDisk {
		t.Errorf("disks: %+v", r.Disks)
	}
	checkPhases(t, r)
	if b, err := os.ReadFile(file); err != nil || string(b) != p.stdout() {
		t.Errorf("--report wrote something else than -o json printed: %v\n%s", err, b)
	}
}

// checkPhases: they follow each other without a gap and end with the migration.
func checkPhases(t *testing.T, r migrate.Report) {
	t.Helper()
	if len(r.Phases) < 5 || r.Phases[0].Name != migrate.PhaseChecking.String() {
		t.Fatalf("phases: %+v", r.Phases)
	}
	for i, p := range r.Phases[1:] {
		if before := r.Phases[i]; math.Abs(before.StartMS+before.MS-p.StartMS) > 0.01 {
			t.Errorf("%s ends at %.3f, %s begins at %.3f", before.Name, before.StartMS+before.MS, p.Name, p.StartMS)
		}
	}
	if last := r.Phases[len(r.Phases)-1]; math.Abs(last.StartMS+last.MS-*r.TotalMS) > 50 {
		t.Errorf("the last phase ends at %.3f of %.3f ms", last.StartMS+last.MS, *r.TotalMS)
	}
}

// checkProgress: each line is as its schema says; the percentage never falls and ends at 100, no earlier.
func checkProgress(t *testing.T, p *proc) {
	t.Helper()
	all := p.progress()
	if len(all) < 5 {
		t.Fatalf("%d lines of progress", len(all))
	}
	last := -1.0
	for i, l := range all {
		if l.Percent < last || l.Percent > 100 || l.Percent == 100 && i != len(all)-1 {
			t.Errorf("line %d of %d says %v %% after %v %%", i+1, len(all), l.Percent, last)
		}
		last = l.Percent
	}
	for _, text := range strings.Split(p.stderr(), "\n") {
		if strings.HasPrefix(text, "{") {
			conform(t, migrate.ProgressJSONSchema(), text)
		}
	}
	if end := all[len(all)-1]; end.Percent != 100 || end.Outcome != migrate.OutcomeCompleted || end.Owner != migrate.OwnerDestination {
		t.Errorf("the last line is %+v", end)
	}
}

// checkHistory: the journal tells the same, and has nothing open.
func (x *bench) checkHistory(r migrate.Report) {
	x.t.Helper()
	var kept migrate.Report
	if err := json.Unmarshal([]byte(x.ok("history", r.Migration, "-o", "json")), &kept); err != nil {
		x.t.Fatal(err)
	}
	if d := cmp.Diff(r, kept); d != "" {
		x.t.Errorf("the journal's report differs (-printed +kept):\n%s", d)
	}
	if got := x.ok("status", "-o", "json"); got != "[]\n" {
		x.t.Errorf("status lists %s", got)
	}
}
