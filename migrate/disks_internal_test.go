package migrate

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// copyOf are the figures of a disk's copy, in bytes.
func copyOf(name string, total, sent int64) DiskStats {
	left := total - sent
	return DiskStats{Name: name, Total: &total, Sent: &sent, Remaining: &left, Way: WayMirror, Writes: WritesBackground, InStep: left == 0}
}

// TestDisksInTheReport: each disk has what was seen of it, and what a person should know is noted once.
func TestDisksInTheReport(t *testing.T) {
	r := newRecorder(time.Unix(0, 0))
	obs, est := newObserver(r), NewEstimator(false, 0)
	r.expect(DomainFacts{Disks: []Disk{{Target: "vda", Capacity: 1000, Path: "/a"}, {Target: "vdb", Capacity: 50, Path: "/b"}, {Target: "sr0", CDROM: true, Path: "/c"}}},
		Params{CopyStorage: CopyAll})
	full := copyOf("vda", 900, 300)
	full.Waits = "the target is full"
	behind := copyOf("vda", 900, 400)
	behind.Writes, behind.Advice = WritesBlocking, "its writes wait"
	done := copyOf("vda", 950, 950)
	done.Writes, done.Advice = WritesBlocking, "its writes wait"
	var notes []string
	for i, d := range []DiskStats{copyOf("vda", 900, 0), full, full, behind, behind, done} {
		obs.mu.Lock()
		obs.stats = append(obs.stats, timedStats{time.Unix(int64(i), 0), Stats{Disks: []DiskStats{d, copyOf("vdb", 10, 10)}}})
		obs.mu.Unlock()
		_, n := obs.take(est)
		notes = append(notes, n...)
	}
	want := []ReportDisk{
		{Name: "vda", Bytes: 1000, SentBytes: pointer(int64(950)), MS: pointer(5000.0), Way: WayMirror, Writes: WritesBlocking},
		{Name: "vdb", Bytes: 50, SentBytes: pointer(int64(10)), MS: pointer(0.0), Way: WayMirror, Writes: WritesBackground},
	}
	if d := cmp.Diff(want, r.diskReport()); d != "" {
		t.Errorf("disks (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"disk vda: the target is full", "disk vda: there is room again, the copy goes on", "disk vda: its writes wait"}, notes); d != "" {
		t.Errorf("notes (-want +got):\n%s", d)
	}
	if text := (Report{Disks: want}).Text(80); !strings.Contains(text, "950 B sent in 5.00 s, by mirror, guest writes") {
		t.Error(text)
	}
}

// TestOnlyTheSumIsKnown: of one disk it is that disk's, of several nobody's.
func TestOnlyTheSumIsKnown(t *testing.T) {
	for n, want := range []*int64{nil, pointer(int64(70)), nil} {
		r := newRecorder(time.Unix(0, 0))
		var disks []Disk
		for i := range n {
			disks = append(disks, Disk{Target: fmt.Sprintf("vd%c", 'a'+i), Path: "/x", Capacity: 100})
		}
		r.expect(DomainFacts{Disks: disks}, Params{CopyStorage: CopyAll})
		r.stats(time.Unix(1, 0), Stats{DiskTotal: pointer(int64(70)), DiskSent: pointer(int64(70))})
		for _, d := range r.diskReport() {
			if cmp.Diff(want, d.SentBytes) != "" || d.MS != nil || d.Way != "" {
				t.Errorf("%d disks: %+v", n, d)
			}
		}
	}
}

// TestDiskProgress: a disk has a speed of its own, which adds to RAM's, and figures of RAM alone do not hide it.
func TestDiskProgress(t *testing.T) {
	e := NewEstimator(false, 1000)
	e.Phase(PhaseCopying)
	at := time.Unix(1, 0)
	for i := range int64(30) {
		d := copyOf("vda", 4000, 100*i)
		e.Stats(at.Add(time.Duration(i)*time.Second), Stats{Disks: []DiskStats{d}, DiskTotal: d.Total, DiskSent: d.Sent, DiskRemaining: d.Remaining})
		e.Stats(at.Add(time.Duration(i)*time.Second+500*time.Millisecond), Stats{RAMTotal: pointer(int64(1000)), RAMRemaining: pointer(int64(600)), RAMSent: pointer(10 * i)})
	}
	var p Progress
	e.Fill(&p)
	if len(p.Disks) != 1 || *p.Disks[0].RemainingBytes != 4000-2900 || *p.Disks[0].BandwidthBytesPerS < 95 || *p.Disks[0].BandwidthBytesPerS > 105 {
		t.Errorf("%+v", p.Disks)
	}
	if *p.RemainingBytes != 600+1100 || *p.BandwidthBytesPerS < 105 || *p.BandwidthBytesPerS > 115 {
		t.Errorf("%d left at %d B/s", *p.RemainingBytes, *p.BandwidthBytesPerS)
	}
	if p.Percent < 50 || p.Percent > 70 {
		t.Errorf("%v %%", p.Percent)
	}
}

// TestPredictDisks: they take their own cap, and add to what is sent; the pause is not theirs.
func TestPredictDisks(t *testing.T) {
	s := Stats{RAMTotal: pointer(int64(1000)), DirtyRate: pointer(int64(10)), Bandwidth: pointer(int64(100)), DiskTotal: pointer(int64(500))}
	plain := Predict(Stats{RAMTotal: s.RAMTotal, DirtyRate: s.DirtyRate, Bandwidth: s.Bandwidth}, 0, Params{})
	for name, c := range map[string]struct {
		p    Params
		more float64
	}{"at the link's": {Params{}, 5000}, "at their cap": {Params{BandwidthDisk: 50}, 10000}, "a cap above the link's": {Params{BandwidthDisk: 5000}, 5000}} {
		got := Predict(s, 0, c.p)
		for strategy, v := range plain {
			g := got[strategy]
			if g.TotalMS != v.TotalMS+c.more || g.SentBytes != v.SentBytes+500 || cmp.Diff(g.DowntimeMS, v.DowntimeMS) != "" {
				t.Errorf("%s, %s: %+v with, %+v without", name, strategy, g, v)
			}
		}
	}
}

// TestPredictWhileDisksGoFirst: the disks' speed stands for the link's, and what their images hold for what is not counted yet.
func TestPredictWhileDisksGoFirst(t *testing.T) {
	r := newRecorder(time.Unix(0, 0))
	r.phase(time.Unix(0, 0), PhaseCopying)
	r.expect(DomainFacts{Memory: 1000, Disks: []Disk{{Target: "vda", Capacity: 9000, Used: 4000, Path: "/a"}}}, Params{CopyStorage: CopyAll})
	for i := range int64(4) {
		d := copyOf("vda", 4000, 200*i)
		at := time.Unix(i, 0)
		r.copying(at, []DiskStats{d})
		r.stats(at, Stats{Status: "active", Disks: []DiskStats{d}, Bandwidth: pointer(int64(0))})
	}
	if got := r.predicted[StrategyPostcopy]; got.SentBytes != 5000 || got.TotalMS != 25000 {
		t.Errorf("%+v", r.predicted)
	}
}

// TestPlannedDisksCount: RAM that has all arrived is not all of the work while disks are to come.
func TestPlannedDisksCount(t *testing.T) {
	e := NewEstimator(false, 1000)
	e.Expect(3000)
	e.Phase(PhaseCopying)
	e.Stats(time.Unix(1, 0), Stats{RAMTotal: pointer(int64(1000)), RAMRemaining: new(int64), RAMSent: pointer(int64(1000))})
	var p Progress
	if e.Fill(&p); p.Percent > 30 || *p.RemainingBytes != 3000 {
		t.Errorf("%v %%, %d left", p.Percent, *p.RemainingBytes)
	}
	e.Stats(time.Unix(2, 0), Stats{DiskTotal: pointer(int64(500)), DiskRemaining: new(int64), DiskSent: pointer(int64(500))})
	if e.Fill(&p); p.Percent < 90 || *p.RemainingBytes != 0 {
		t.Errorf("%v %%, %d left", p.Percent, *p.RemainingBytes)
	}
}
