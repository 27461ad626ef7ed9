package migrate_test

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmmigrate/vmmigrate/migrate"
)

var updateDisks = flag.Bool("update-disks", false, "rewrite the traces of the disks' pilot; read the difference before you commit it")

// TestDiskPilotTraces plays samples and compares every decision. A trace has the configuration on its first line, one sample a
// line (disk total-in-MiB sent-in-MiB, and any of step, full, blocking), one a second for each disk, up to "----", and the
// moves below it.
func TestDiskPilotTraces(t *testing.T) {
	files, err := filepath.Glob("testdata/diskpilot/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no traces: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			raw, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			in, want, _ := strings.Cut(string(raw), "----\n")
			got := playDisks(t, in)
			if *updateDisks {
				if err := os.WriteFile(f, []byte(in+"----\n"+got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("decisions differ (-want +got):\n%s", d)
			}
		})
	}
}

var diskMoves = map[migrate.DiskMoveKind]string{migrate.DiskBehind: "behind", migrate.DiskRetry: "retry", migrate.DiskStuck: "stuck", migrate.DiskNoRoom: "no room"}

func playDisks(t *testing.T, in string) string {
	t.Helper()
	var out strings.Builder
	var p *migrate.DiskPilot
	seconds := map[string]int{}
	waits := map[string]bool{}
	for sc := bufio.NewScanner(strings.NewReader(in)); sc.Scan(); {
		line := strings.TrimSpace(sc.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if p == nil {
			var idle, full, pause int
			var limit int64
			if _, err := fmt.Sscanf(line, "idle=%ds full=%ds max-downtime=%dms cap=%d", &idle, &full, &pause, &limit); err != nil {
				t.Fatalf("configuration %q: %v", line, err)
			}
			p = migrate.NewDiskPilot(migrate.DiskPilotConfig{Idle: time.Duration(idle) * time.Second, Full: time.Duration(full) * time.Second,
				MaxDowntime: time.Duration(pause) * time.Millisecond, Bandwidth: limit << 20})
			continue
		}
		var s migrate.DiskSample
		if n, err := fmt.Sscan(line, &s.Name, &s.Total, &s.Sent); n < 3 {
			t.Fatalf("sample %q: %v", line, err)
		}
		s.Total, s.Sent = s.Total<<20, s.Sent<<20
		s.InStep, s.Full, s.Blocking = strings.Contains(line, "step"), strings.Contains(line, "full"), strings.Contains(line, "blocking")
		at := seconds[s.Name]
		seconds[s.Name]++
		for _, m := range p.Step(time.Duration(at)*time.Second, []migrate.DiskSample{s}) {
			fmt.Fprintf(&out, "%d s: disk %s %s: %s\n", at, m.Disk, diskMoves[m.Kind], m.Why)
		}
		if w := p.Waits(s.Name); w != waits[s.Name] {
			waits[s.Name] = w
			fmt.Fprintf(&out, "%d s: disk %s waits: %t\n", at, s.Name, w)
		}
	}
	return out.String()
}

func TestDiskShares(t *testing.T) {
	for name, c := range map[string]struct {
		limit  int64
		inStep []bool
		want   []int64
	}{
		"no cap":               {0, []bool{false, true}, []int64{0, 0}},
		"one":                  {100, []bool{false}, []int64{100}},
		"all busy":             {100, []bool{false, false}, []int64{50, 50}},
		"all in step":          {100, []bool{true, true}, []int64{50, 50}},
		"one is in step":       {100, []bool{true, false}, []int64{12, 88}},
		"a cap below a disk's": {1, []bool{false, false}, []int64{1, 1}},
	} {
		if d := cmp.Diff(c.want, migrate.DiskShares(c.limit, c.inStep)); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}
