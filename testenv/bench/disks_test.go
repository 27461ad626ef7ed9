package bench

import (
	"context"
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/testenv/workload"
)

func diskResult(rows ...RowResult) Report {
	s := Scenario{Name: "d", Guest: Guest{Disks: []string{"8MiB"}}, Workloads: []string{"blockio"}, Links: []string{"unlimited"}}
	rtt := 20.0
	r := Report{Scenarios: []Result{{Scenario: s, Cells: []Cell{{Workload: "blockio", Link: "unlimited", RTTUS: &rtt, Rows: rows}}}}}
	r.finish()
	return r
}

func diskRow(row Row, f Figures) RowResult {
	return RowResult{Row: row, Runs: []Run{{OK: true, Figures: f}}}
}

func TestBarsOfDisks(t *testing.T) {
	after := []string{"--copy-storage-after"}
	r := diskResult(
		diskRow(Row{Name: "c", Engine: NBDCopy}, Figures{DiskSpeed: ptr(100)}),
		diskRow(Row{Name: "v", Engine: Virsh}, Figures{DiskSpeed: ptr(50)}),
		diskRow(Row{Name: "plain", Engine: "nbd", Strategy: "hybrid", Diskless: true}, Figures{DowntimeMS: ptr(10), DiskSpeed: ptr(1000)}),
		diskRow(Row{Name: "all", Engine: "nbd", Strategy: "hybrid"}, Figures{DowntimeMS: ptr(12), DiskSpeed: ptr(90), LandedMS: ptr(9000)}),
		diskRow(Row{Name: "after", Engine: "nbd", Strategy: "hybrid", Args: after}, Figures{DowntimeMS: ptr(11), DiskSpeed: ptr(500), LandedMS: ptr(1500), ReadP50US: ptr(720)}),
	)
	want := map[string]float64{"disks-nbdcopy": 0.9, "disks-libvirt": 1.8, "disks-downtime": 1.2, "disks-landed": 1.5, "disks-reads": 700}
	for _, b := range r.Bars {
		value, ok := want[b.ID]
		switch {
		case ok && (b.Value == nil || *b.Value != value):
			t.Errorf("%s: %v (%s), want %v", b.ID, b.Value, b.Detail, value)
		case !ok && b.Value != nil:
			t.Errorf("%s is measured where there are disks: %v", b.ID, *b.Value)
		}
	}
	for _, b := range diskResult().Bars {
		if b.Value != nil {
			t.Errorf("%s is measured without rows", b.ID)
		}
	}
}

func TestTheGuestWithoutDisksDoesTheSame(t *testing.T) {
	for text, want := range map[string]string{
		"mixed:size=32MiB,rate=1000,writes=60": "hotset:size=32MiB,rate=1000,hot=0.1,bias=0.9",
		"blockio:size=64MiB":                   "idle:size=16MiB",
		"uniform:size=16MiB,rate=5":            "uniform:size=16MiB,rate=5",
	} {
		got := offDisk(text)
		if got != want {
			t.Errorf("%s becomes %s, want %s", text, got, want)
		}
		if _, err := workload.Parse(got); err != nil {
			t.Error(err)
		}
	}
}

func TestSpeedOfDisks(t *testing.T) {
	run := Run{Figures: Figures{DiskBytes: ptr(64 << 20), DisksMS: ptr(500)}}
	if run.perSecond(); run.DiskSpeed == nil || *run.DiskSpeed != 128 {
		t.Errorf("speed %v", run.DiskSpeed)
	}
	unknown := Run{Figures: Figures{DiskBytes: ptr(1)}}
	if unknown.perSecond(); unknown.DiskSpeed != nil {
		t.Errorf("speed %v of a copy whose time is not known", *unknown.DiskSpeed)
	}
	told, err := readTold([]byte(`{"schema": "vmmigrate.report/v1", "disks": [{"ms": 5}, {"ms": 7}], "phases": [{"name": "paging", "start_ms": 3}]}`))
	if f := told.figures(); err != nil || f.DisksMS == nil || *f.DisksMS != 7 || f.LandedMS == nil || *f.LandedMS != 3 {
		t.Errorf("disks took %v, landed %v, %v", f.DisksMS, f.LandedMS, err)
	}
}

func TestTheTimeOfDisksIsNotThatOfOneOfThem(t *testing.T) {
	told, err := readTold([]byte(`{"schema": "vmmigrate.report/v1", "disks": [{"name": "vda"}, {"name": "vdb", "ms": 7}]}`))
	if f := told.figures(); err != nil || f.DisksMS != nil {
		t.Errorf("disks took %v, %v", f.DisksMS, err)
	}
}

func TestARowThatTheProgramCannotRunIsLeftOut(t *testing.T) {
	s := &session{Config: Config{Program: "echo"}} // it prints its arguments: migrate --help
	if why := s.lacks(context.Background(), Row{Needs: "--help"}); why != "" {
		t.Errorf("left out: %s", why)
	}
	if why := s.lacks(context.Background(), Row{Needs: "--copy-storage-after"}); !strings.Contains(why, "has no --copy-storage-after") {
		t.Errorf("why is it left out: %q", why)
	}
	if why := s.lacks(context.Background(), Row{}); why != "" {
		t.Errorf("left out: %s", why)
	}
	s.Program = "/nonexistent"
	if why := s.lacks(context.Background(), Row{Needs: "--x"}); why == "" {
		t.Error("a program that does not start has all options")
	}
}
