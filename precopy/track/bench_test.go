//go:build linux

package track_test

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/precopy/track"
	"github.com/vmmigrate/vmmigrate/precopy/track/tracktest"
)

// BenchmarkHarvest is one harvest of 1 GiB of which a share was written since the last one. The median is reported, since
// what the machine does besides makes the mean.
func BenchmarkHarvest(b *testing.B) {
	need.UFFD(b)
	for _, c := range []struct {
		kind   string
		memory tracktest.Memory
	}{{track.KindUserfault, tracktest.Memfd}, {track.KindUserfault, tracktest.Anonymous}, {track.KindUserfault, tracktest.Huge}, {track.KindHash, tracktest.Memfd}} {
		for _, percent := range []int64{0, 1, 100} {
			b.Run(fmt.Sprintf("%s/%s/%d%%", c.kind, c.memory, percent), func(b *testing.B) { benchHarvest(b, c.kind, c.memory, percent) })
		}
	}
}

func benchHarvest(b *testing.B, kind string, m tracktest.Memory, percent int64) {
	pages := int64(1 << 30 / 4096)
	if m == tracktest.Huge {
		pages = 1 << 30 / (2 << 20)
	}
	p, tr := watched(b, kind, m, pages)
	var took []time.Duration
	for b.Loop() {
		b.StopTimer()
		switch percent {
		case 100:
			p.Do(b, "fill", 0, pages)
		default:
			p.Do(b, "write", pages*percent/100, len(took))
		}
		b.StartTimer()
		begun := time.Now()
		if _, err := tr.Harvest(b.Context()); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(begun))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms/harvest")
}

// watched is a child with all its memory written, harvested twice.
func watched(b *testing.B, kind string, m tracktest.Memory, pages int64) (*tracktest.Process, track.Tracker) {
	p := tracktest.Start(b, m, pages)
	p.Do(b, "fill", 0, pages)
	tr, err := track.Open(b.Context(), kind, p.PID, []track.Region{p.Region})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = tr.Close() }) // the child ends anyway
	for range 2 {
		if _, err := tr.Harvest(b.Context()); err != nil {
			b.Fatal(err)
		}
		if w, ok := tr.(track.Witness); ok {
			buf := make([]byte, 1<<20)
			for off := int64(0); off < p.Region.Block.Size; off += int64(len(buf)) {
				if _, err := p.Region.File.ReadAt(buf, off); err != nil {
					b.Fatal(err)
				}
				w.Sent(0, off, buf)
			}
		}
	}
	return p, tr
}

// BenchmarkSlowdown is how much more processor time a child needs, by its own clock, for a second's work that is harvested
// once in the middle. It works on registers and writes each of so many pages again and again. Runs with and without a
// harvest take turns; the medians are compared.
func BenchmarkSlowdown(b *testing.B) {
	need.UFFD(b)
	for _, c := range []struct {
		memory tracktest.Memory
		pages  int64
	}{{tracktest.Memfd, 100}, {tracktest.Memfd, 2000}, {tracktest.Memfd, 20000}, {tracktest.Memfd, 65536}, {tracktest.Huge, 128}} {
		b.Run(fmt.Sprintf("%s/%d-pages", c.memory, c.pages), func(b *testing.B) { benchSlowdown(b, c.memory, c.pages) })
	}
}

func benchSlowdown(b *testing.B, m tracktest.Memory, pages int64) {
	const pieces = 4 << 20
	all := int64(256 << 20 / 4096)
	if m == tracktest.Huge {
		all = 128
	}
	p, tr := watched(b, track.KindUserfault, m, all)
	pace := func(harvest bool) float64 {
		p.Send(b, "pace", pieces, pages)
		if harvest {
			if _, err := tr.Harvest(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		ns, err := strconv.ParseFloat(p.Reply(b), 64)
		if err != nil {
			b.Fatal(err)
		}
		return ns
	}
	var with, without []float64
	for b.Loop() {
		with = append(with, pace(true))
		without = append(without, pace(false))
	}
	slices.Sort(with)
	slices.Sort(without)
	free := without[len(without)/2]
	b.ReportMetric(100*(with[len(with)/2]-free)/free, "%slower")
	b.ReportMetric(free/1e6, "cpu-ms/run")
}
