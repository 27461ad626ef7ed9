package bench

import (
	"fmt"
	"strings"
)

// diskRules are the bars of guests with disks.
func diskRules() []rule {
	return []rule{
		{"disks-nbdcopy", "speed of copying disks, our best row, open link: × nbdcopy of the same images", 1.0, true,
			"a scenario with disks and an nbdcopy row beside ours on an unlimited link", eachDisks(diskSpeed(NBDCopy))},
		{"disks-libvirt", "speed of copying disks, our best row, open link: × virsh --copy-storage-all", 1.0, true,
			"a scenario with disks and a virsh row beside ours on an unlimited link", eachDisks(diskSpeed(Virsh))},
		{"disks-downtime", "downtime with disks, median: × the same guest's without, worst of our rows", 1.3, false,
			"a scenario with disks and rows that move a guest without", eachDisks(diskDowntime)},
		{"disks-landed", "disks after the guest: s from the command until it runs at the destination", 2, false,
			"rows whose disks come after the guest", eachDisks(diskLanded)},
		{"disks-reads", "disks after the guest: its reads, median, µs beyond a round trip", 1000, false,
			"rows whose disks come after the guest", eachDisks(diskReads)},
		{"return", "a way back after a stay, worst of our rows: × the bytes of the way there", 0.08, false,
			"rows with a stay", eachDisks(returnPart)},
	}
}

// eachDisks measures in the cells of scenarios with disks.
func eachDisks(measure func(place) (value float64, detail string, ok bool)) func(Report) []Bar {
	return func(r Report) []Bar {
		var bars []Bar
		for _, result := range r.Scenarios {
			if len(result.Scenario.Guest.Disks) == 0 {
				continue
			}
			for _, p := range places(result) {
				if v, detail, ok := measure(p); ok {
					bars = append(bars, Bar{Scope: p.scope(), Value: &v, Detail: detail})
				}
			}
		}
		return bars
	}
}

func withDisks(r Row) bool { return !r.Diskless && (r.Engine == "native" || r.Engine == "nbd") }

// after reports whether a row's disks come after the guest.
func after(r Row) bool { return strings.Contains(strings.Join(r.Args, " "), "--copy-storage-after") }

// diskSpeed holds our best row against those of another engine.
func diskSpeed(engine string) func(place) (float64, string, bool) {
	const f = "disk_mib_per_s"
	return func(p place) (float64, string, bool) {
		us := p.rowsOf(f, func(r Row) bool { return withDisks(r) && !after(r) })
		them := p.rowsOf(f, func(r Row) bool { return r.Engine == engine })
		if p.link.Rate != 0 || len(us) == 0 || len(them) == 0 {
			return 0, "", false
		}
		name, value := most(us, f)
		other, held := most(them, f)
		return value / held, fmt.Sprintf("%s %.0f MiB/s, %s %.0f MiB/s", name, value, other, held), held > 0
	}
}

// diskDowntime holds each row with disks against the one of the same engine and strategy without,
// and returns the worst.
func diskDowntime(p place) (float64, string, bool) {
	const f = "downtime_ms"
	worst, detail := 0.0, ""
	for _, with := range p.rowsOf(f, withDisks) {
		for _, without := range p.rowsOf(f, func(r Row) bool { return r.Diskless }) {
			if with.Row.Engine != without.Row.Engine || with.Row.Strategy != without.Row.Strategy {
				continue
			}
			a, _ := median(with, f)
			b, _ := median(without, f)
			if b > 0 && a/b >= worst {
				worst, detail = a/b, fmt.Sprintf("%s %.1f ms, %s %.1f ms", with.Row.Name, a, without.Row.Name, b)
			}
		}
	}
	return worst, detail, detail != ""
}

func diskLanded(p place) (float64, string, bool) {
	rows := p.rowsOf("landed_ms", after)
	name, value := most(rows, "landed_ms")
	return value / 1000, name, len(rows) > 0
}

func diskReads(p place) (float64, string, bool) {
	rows := p.rowsOf("read_p50_us", after)
	if p.cell.RTTUS == nil || len(rows) == 0 {
		return 0, "", false
	}
	name, value := most(rows, "read_p50_us")
	return value - *p.cell.RTTUS, fmt.Sprintf("%s %.0f µs, round trip %.0f µs", name, value, *p.cell.RTTUS), true
}

// returnPart is the worst of the ways back.
func returnPart(p place) (float64, string, bool) {
	rows := p.rowsOf("return_part", func(r Row) bool { return len(r.Stay) > 0 })
	name, value := most(rows, "return_part")
	return value, name, len(rows) > 0
}
