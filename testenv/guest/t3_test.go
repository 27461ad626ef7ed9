package guest_test

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/qmp"
	"github.com/vmmigrate/vmmigrate/testenv/guest"
	"github.com/vmmigrate/vmmigrate/testenv/oracle"
)

func TestT3GuestBootsAnswersIsWellAndTurnsOff(t *testing.T) {
	m := launch(t, "mixed:size=32MiB,rate=2000,writes=100", newDisk)
	c := m.client(t)
	written(t, c, 1000, 50)
	r := verify(t, c)
	if !r.OK || r.Pages != 8192 || r.Blocks != testDisk/oracle.PageSize || r.Seal.Ticks == 0 {
		t.Errorf("report %+v", r)
	}
	if err := c.SetWorkload(limit(t), "idle:size=32MiB"); err != nil {
		t.Error(err)
	}
	if s, err := c.Stats(limit(t)); err != nil || s.Workload != "idle:size=32MiB" || s.Guest != "t3" {
		t.Errorf("stats %+v, %v", s, err)
	}
	m.do(t, "stop", nil)
	m.do(t, "cont", nil)
	if r := verify(t, c); !r.OK {
		t.Errorf("after a pause: %+v", r)
	}
	if err := c.PowerOff(limit(t)); err != nil {
		t.Error(err)
	}
	select {
	case <-m.gone:
	case <-limit(t).Done():
		t.Error("the guest did not turn off")
	}
}

func TestT3AGuestWithoutTheMemoryForItsWorkloadSaysSo(t *testing.T) {
	m := launch(t, "idle:size=1GiB", newDisk)
	_, err := oracle.Dial(limit(t), new(net.Dialer), m.addr)
	if !errors.Is(err, oracle.ErrGuest) || !strings.Contains(err.Error(), "make size= smaller") {
		t.Errorf("Dial = %v", err)
	}
}

func TestT3ThePowerButtonTurnsTheGuestOff(t *testing.T) {
	m := launch(t, "idle:size=1MiB", newDisk)
	m.console(t, "late modules=")
	m.do(t, "system_powerdown", nil)
	select {
	case <-m.gone:
	case <-limit(t).Done():
		t.Fatal("the guest did not turn off")
	}
}

func TestT3TheAcceleratorIsDecidedByBooting(t *testing.T) {
	a := assets(t)
	dir := t.TempDir()
	for _, path := range []string{a.Kernel(), a.Initrd()} {
		if err := os.Symlink(path, filepath.Join(dir, filepath.Base(path))); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv(guest.EnvAssets, dir)
	first, err := guest.Accel(limit(t))
	if err != nil || first != guest.TCG && first != guest.KVM {
		t.Fatalf("%q, %v", first, err)
	}
	t.Logf("Linux guests run with %s here", first)
	if again, err := guest.Accel(limit(t)); err != nil || again != first {
		t.Errorf("asked again: %q, %v", again, err)
	}
}

// find looks for a record through a guest's RAM or disk.
func find(t *testing.T, path string, block bool, index uint64) (at int64, page []byte, rec oracle.Record) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	page = make([]byte, oracle.PageSize)
	for at = 0; ; at += oracle.PageSize {
		if _, err := f.ReadAt(page, at); err == io.EOF {
			t.Fatalf("no record of %d in %s", index, path)
		} else if err != nil {
			t.Fatal(err)
		}
		if rec, ok := oracle.Inspect(page); ok && rec.Index == index && rec.Block == block {
			return at, page, rec
		}
	}
}

func overwrite(t *testing.T, path string, at int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

// spoil takes a record while the guest is paused, lets the guest write it
// again, and puts the old one back while the guest is paused. Both times the record is whole: a write that was cut in two
// by the pause would make it a torn one.
func spoil(t *testing.T, m *machine, c *oracle.Client, path string, block bool, index uint64) oracle.Report {
	t.Helper()
	step := func() (at int64, page []byte, rec oracle.Record) {
		m.do(t, "cont", nil)
		// Two more writes: what was being written at the last pause is whole by now.
		if block {
			written(t, c, 0, 2)
		} else {
			written(t, c, 2, 0)
		}
		m.do(t, "stop", nil)
		return find(t, path, block, index)
	}
	// settled is a record that was not touched from one pause to the next, so that no write of it is under way.
	settled := func() (at int64, page []byte, rec oracle.Record) {
		_, _, last := find(t, path, block, index)
		for {
			at, page, rec = step()
			if rec.Version == last.Version {
				return at, page, rec
			}
			last = rec
		}
	}
	m.do(t, "stop", nil)
	at, old, was := settled()
	for now := was; now.Version == was.Version; {
		step()
		_, _, now = settled()
	}
	m.do(t, "cont", nil) // from now on it writes nothing: what is spoiled must not be put right again before it is looked at
	if err := c.SetWorkload(t.Context(), "idle:size=4KiB"); err != nil {
		t.Fatal(err)
	}
	m.do(t, "stop", nil)
	overwrite(t, path, at, old)
	m.do(t, "cont", nil)
	return verify(t, c)
}

func TestT3AStalePageIsFound(t *testing.T) {
	m := launch(t, "uniform:size=1MiB,rate=2000", newDisk)
	c := m.client(t)
	r := spoil(t, m, c, m.ram(), false, 77)
	if !r.Findings.Has(oracle.StalePage) || r.OK {
		t.Fatalf("findings %v", r.Findings.List)
	}
	if f := r.Findings.List[0]; f.Index != 77 || f.Got >= f.Want {
		t.Errorf("found %v, want page 77 at an older version", f)
	}
}

func TestT3ALostDiskWriteIsFound(t *testing.T) {
	m := launch(t, "blockio:size=64KiB,rate=max", newDisk)
	c := m.client(t)
	written(t, c, 0, 200)
	r := spoil(t, m, c, m.disk(), true, 5)
	if !r.Findings.Has(oracle.LostWrite) || r.OK {
		t.Fatalf("findings %v", r.Findings.List)
	}
	if f := r.Findings.List[0]; f.Index != 5 || f.Got >= f.Want {
		t.Errorf("found %v, want block 5 at an older version", f)
	}
}

func TestT3ALostRAMPageIsFound(t *testing.T) {
	m := launch(t, "idle:size=1MiB", newDisk)
	c := m.client(t)
	m.do(t, "stop", nil)
	at, _, _ := find(t, m.ram(), false, 200)
	overwrite(t, m.ram(), at, make([]byte, oracle.PageSize))
	m.do(t, "cont", nil)
	r := verify(t, c)
	if f := r.Findings.List; len(f) != 1 || f[0].Kind != oracle.LostPage || f[0].Index != 200 {
		t.Errorf("findings %v, want the lost page 200", f)
	}
}

// snapshot writes the guest's state to a file and copies its disk; the guest
// stays paused.
func snapshot(t *testing.T, m *machine) (state, disk string) {
	t.Helper()
	state, disk = filepath.Join(m.dir, "state"), filepath.Join(m.dir, "disk.copy")
	events := migrationEvents(t, m)
	m.do(t, "stop", nil)
	m.do(t, "migrate", map[string]any{"uri": "file:" + state})
	completed(t, events)
	if err := copyOf(m.disk())(disk); err != nil {
		t.Fatal(err)
	}
	return state, disk
}

func migrationEvents(t *testing.T, m *machine) <-chan qmp.Event {
	t.Helper()
	m.do(t, "migrate-set-capabilities", map[string]any{"capabilities": []any{map[string]any{"capability": "events", "state": true}}})
	events, err := m.qmp.Events(limit(t), "MIGRATION")
	if err != nil {
		t.Fatal(err)
	}
	return events
}

// completed waits for the end of a migration.
func completed(t *testing.T, events <-chan qmp.Event) {
	t.Helper()
	for e := range events {
		var data struct{ Status string }
		if err := json.Unmarshal(e.Data, &data); err != nil {
			t.Fatal(err)
		}
		switch data.Status {
		case "completed":
			return
		case "failed":
			t.Fatal("the migration failed")
		}
	}
	t.Fatal("the migration did not end")
}

// A migration that QEMU does by itself takes nothing from the guest, and the
// witness has nothing to say but how long it took.
func TestT3AGuestThatMigratesIsWell(t *testing.T) {
	from := launch(t, "mixed:size=8MiB,rate=2000,writes=100", newDisk)
	c := from.client(t)
	path := &switchboard{}
	path.connect(t, from.addr)
	w := witness(t, path, "guest")
	written(t, c, 500, 50)
	socket := filepath.Join(from.dir, "migrate")
	to := launch(t, "idle", shared(from.disk()), "-incoming", "unix:"+socket)
	events := migrationEvents(t, from)
	from.do(t, "migrate", map[string]any{"uri": "unix:" + socket})
	completed(t, events)
	path.connect(t, to.addr)
	answers(t, w, 20)
	c = to.client(t)
	written(t, c, 500, 50)
	seen := w.Report()
	r := verify(t, c)
	if fs := oracle.Judge(r, seen); !r.OK || fs.Total() != 0 {
		t.Errorf("%+v, judged %v", r, fs.List)
	}
	t.Logf("outside downtime %v, %d of %d pings lost", seen.LongestGap.Length, seen.Lost, seen.Sent)
}

// resume starts a second QEMU from a snapshot.
func resume(t *testing.T, state, disk string) *machine {
	t.Helper()
	m := launch(t, "uniform:size=1MiB,rate=2000", copyOf(disk), "-incoming", "file:"+state)
	ctx := limit(t)
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		var status struct{ Status string }
		if err := m.qmp.Execute(ctx, "query-status", nil, &status); err != nil {
			t.Fatal(err)
		}
		if status.Status != "inmigrate" {
			m.do(t, "cont", nil)
			return m
		}
		<-poll.C
	}
}

// witness watches what d reaches and waits for the first answers.
func witness(t *testing.T, d oracle.Dialer, addr string) *oracle.Witness {
	t.Helper()
	w, err := oracle.StartWitness(limit(t), d, addr, oracle.WitnessOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Stop() })
	answers(t, w, 20)
	return w
}

// answers waits until the witness has had so many answers more.
func answers(t *testing.T, w *oracle.Witness, n uint64) {
	t.Helper()
	ctx := limit(t)
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for from := w.Report().Answers; w.Report().Answers < from+n; {
		select {
		case <-ctx.Done():
			t.Fatalf("no answers: %+v", w.Report())
		case <-poll.C:
		}
	}
}

// A guest that went on after its snapshot was taken is started from that
// snapshot again: each by itself is well, and only the witness can know.
func TestT3AReplayedGuestIsFound(t *testing.T) {
	first := launch(t, "uniform:size=1MiB,rate=2000", newDisk)
	c := first.client(t)
	state, disk := snapshot(t, first)
	first.do(t, "cont", nil)
	path := &switchboard{}
	path.connect(t, first.addr)
	w := witness(t, path, "guest")
	written(t, c, 1000, 0)
	if r := w.Report(); !r.OK {
		t.Fatalf("before the replay: %v", r.Findings.List)
	}
	first.do(t, "quit", nil)
	<-first.gone

	second := resume(t, state, disk)
	c = second.client(t)
	if r := verify(t, c); !r.OK {
		t.Errorf("the replayed guest is not well by itself: %v", r.Findings.List)
	}
	seen := w.Report()
	if r := verify(t, c); !judged(r, seen, oracle.ReplayedTick) {
		t.Errorf("the report of a replayed guest passed the witness: %+v", r.Seal)
	}
	path.connect(t, second.addr)
	answers(t, w, 20)
	if r := w.Stop(); r.OK || !r.Findings.Has(oracle.ReplayedTick) || !r.Findings.Has(oracle.WentBack) {
		t.Errorf("the witness saw %v", r.Findings.Counts)
	}
}

func judged(r oracle.Report, w oracle.WitnessReport, k oracle.Kind) bool {
	fs := oracle.Judge(r, w)
	return fs.Has(k)
}

// Two guests from one snapshot run at once and both get every ping, as on a
// network that floods.
func TestT3TwoGuestsAtOnceAreFound(t *testing.T) {
	first := launch(t, "uniform:size=1MiB,rate=2000", newDisk)
	first.client(t)
	state, disk := snapshot(t, first)
	second := resume(t, state, disk)
	second.client(t)
	path := &switchboard{}
	path.connect(t, second.addr)
	w := witness(t, path, "guest")
	if r := w.Report(); !r.OK {
		t.Fatalf("one guest alone: %v", r.Findings.List)
	}
	first.do(t, "cont", nil)
	path.connect(t, first.addr, second.addr)
	for !w.Report().Findings.Has(oracle.TwoGuests) {
		answers(t, w, 1)
	}
}
