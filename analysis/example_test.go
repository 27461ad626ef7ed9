package analysis_test

import (
	"fmt"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/advise"
	"github.com/vmmigrate/vmmigrate/analysis/cycle"
	"github.com/vmmigrate/vmmigrate/analysis/forecast"
	"github.com/vmmigrate/vmmigrate/analysis/sample"
)

const mib = 1 << 20

// measured stands for a platform's own measurements: a guest that writes 210 MiB/s for 70 s, and 6 for 50.
func measured(second int) float64 {
	if second%120 < 70 {
		return 210 * mib
	}
	return 6 * mib
}

// A controller feeds what it measures each second, and asks when to migrate.
func Example() {
	dirty := sample.Series{Name: string(sample.MetricDirty), Unit: sample.MetricDirty.Unit(), Step: time.Second}
	begin := time.Date(2026, 3, 1, 14, 0, 0, 0, time.UTC)
	for second := range 1820 {
		if err := dirty.Append(begin.Add(time.Duration(second)*time.Second), measured(second)); err != nil {
			fmt.Println(err)
			return
		}
	}
	found, err := cycle.Detect(dirty, cycle.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	curve, err := forecast.NewCurve(forecast.Sources{Dirty: dirty, Cycles: found})
	if err != nil {
		fmt.Println(err)
		return
	}
	now := dirty.End()
	advice, err := advise.Cycle{}.Advise(advise.Request{
		Now: now, Deadline: now.Add(10 * time.Minute),
		Guest: forecast.Guest{RAM: 2048 * mib, NonZero: 1024 * mib},
		Link:  forecast.Link{Bandwidth: 112 * mib, RTT: 200 * time.Microsecond},
		Ways:  []forecast.Way{{Engine: forecast.EngineNBD, Strategy: forecast.StrategyHybrid}},
		Curve: curve, Cycles: found, MayPostcopy: true,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	// advice.Reason says: wait 50 s: from 14:31:10 the guest writes 6 MiB/s instead of 210 MiB/s, so hybrid sends 1 GiB instead of
	// 1.9 GiB and takes 10 s instead of 18 s
	fmt.Printf("wait about %s, then %s: about %.0f s instead of %.0f\n", advice.Start.Sub(now).Round(10*time.Second), advice.Way,
		advice.Cost.Duration.Expected.Seconds(), advice.Now.Duration.Expected.Seconds())
	// Output:
	// wait about 50s, then nbd/hybrid: about 10 s instead of 18
}

// What a migration would cost in each way if it started at once.
func Example_ways() {
	dirty := sample.Series{Name: string(sample.MetricDirty), Start: time.Date(2026, 3, 1, 14, 0, 0, 0, time.UTC), Step: time.Second}
	for range 600 {
		dirty.Values = append(dirty.Values, 20*mib)
	}
	curve, err := forecast.NewCurve(forecast.Sources{Dirty: dirty})
	if err != nil {
		fmt.Println(err)
		return
	}
	guest, link := forecast.Guest{RAM: 4096 * mib}, forecast.Link{Bandwidth: 1100 * mib}
	for _, w := range forecast.Ways() {
		c := forecast.Estimate(dirty.End(), w, guest, link, curve, forecast.Limits{MaxDowntime: 100 * time.Millisecond})
		fmt.Printf("%-15s %4.1f s, pause %2d ms, %.0f MiB: %s\n", w, c.Duration.Expected.Seconds(), c.Downtime.Expected.Milliseconds(), c.Bytes.Expected/mib, c.Why)
	}
	// Output:
	// native/precopy   4.5 s, pause 15 ms, 4146 MiB: 2 rounds until the rest fits a pause of 100ms
	// native/postcopy  4.5 s, pause 12 ms, 4096 MiB: each page goes once, and the guest runs on missing pages for 3.7s
	// native/hybrid    4.5 s, pause 15 ms, 4146 MiB: 2 rounds, and the rest fits the pause
	// nbd/precopy      4.7 s, pause 22 ms, 4146 MiB: 2 rounds until the rest fits a pause of 100ms
	// nbd/postcopy     4.6 s, pause 20 ms, 4096 MiB: each page goes once, and the guest runs on missing pages for 3.7s
	// nbd/hybrid       4.7 s, pause 20 ms, 4146 MiB: 2 rounds, and the guest runs on missing pages for 1ms
}
