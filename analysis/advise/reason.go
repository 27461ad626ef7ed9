package advise

import (
	"fmt"
	"strings"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/forecast"
)

func clock(t time.Time) string { return t.Format("15:04:05") }

// long is a duration as it is said: 4 min 10 s.
func long(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%.2g s", d.Seconds())
	}
	d = d.Round(time.Second)
	var out []string
	for _, u := range []struct {
		of   time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "min"}, {time.Second, "s"}} {
		if n := d / u.of; n > 0 && len(out) < 2 {
			out = append(out, fmt.Sprintf("%d %s", n, u.name))
			d -= n * u.of
		} else if len(out) > 0 {
			break
		}
	}
	return strings.Join(out, " ")
}

// bytes is a size in the unit that fits.
func bytes(v float64) string {
	for _, u := range []struct {
		of   float64
		name string
	}{{1 << 40, "TiB"}, {1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if v >= u.of*0.9995 {
			return number(v/u.of) + " " + u.name
		}
	}
	return fmt.Sprintf("%.0f B", v)
}

func number(v float64) string {
	if v < 9.95 {
		return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0")
	}
	return fmt.Sprintf("%.0f", v)
}

// rate is what the guest writes per second, seen in seconds spread over the time that the migration would take.
func (p *planner) rate(at time.Time, over time.Duration) float64 {
	const points = 5
	sum := 0.0
	for i := range points {
		sum += p.Curve.Dirtied(at.Add(over*time.Duration(i)/points), time.Second).Expected
	}
	return sum / points
}

func forecastTime(s float64) time.Duration { return time.Duration(min(s, 1e9) * float64(time.Second)) }

// telling is how much more of something there has to be now for it to be worth a word.
const telling = 1.05

// gains says what is saved: only what differs, or, where nothing does by itself, what is sent and how long it takes.
func gains(now, then forecast.Point) string {
	instead := func(verb, less, more string) string { return verb + " " + less + " instead of " + more }
	sends := instead("sends", bytes(then.Bytes), bytes(now.Bytes))
	takes := instead("takes", long(forecastTime(then.Duration)), long(forecastTime(now.Duration)))
	var out []string
	if now.Bytes > telling*then.Bytes {
		out = append(out, sends)
	}
	if now.Duration > telling*then.Duration {
		out = append(out, takes)
	}
	if now.Downtime > 2*then.Downtime && now.Downtime > 0.1 {
		out = append(out, instead("pauses for", pause(then.Downtime), pause(now.Downtime)))
	}
	if now.SlowFor > 2*then.SlowFor && now.SlowFor > 0.5 {
		out = append(out, instead("leaves the guest slow for", long(forecastTime(then.SlowFor)), long(forecastTime(now.SlowFor))))
	}
	if len(out) == 0 {
		out = []string{sends, takes}
	}
	last := len(out) - 1
	if last == 0 {
		return out[0]
	}
	return strings.Join(out[:last], ", ") + " and " + out[last]
}

// worth says why a wait is: what differs, and what that saves.
func (p *planner) worth(now, then choice) string {
	var b strings.Builder
	over := forecastTime(then.point.Duration)
	fmt.Fprintf(&b, "wait %s: from %s the guest writes %s/s instead of %s/s, so %s", long(then.start.Sub(p.Now)), clock(then.start),
		bytes(p.rate(then.start, over)), bytes(p.rate(now.start, over)), p.ways[then.way].Strategy)
	b.WriteString(" " + gains(now.point, then.point))
	if p.ways[now.way].Strategy != p.ways[then.way].Strategy {
		fmt.Fprintf(&b, " by %s", p.ways[now.way].Strategy)
	}
	return b.String()
}

func pause(s float64) string { return forecastTime(s).Round(time.Millisecond).String() }

func (p *planner) noCycle() string {
	if why := strings.TrimSuffix(p.Cycles.Why, "."); why != "" && len(p.Cycles.Cycles) == 0 {
		return "start now: no cycle was found (" + why + "), so no later moment is known to be better"
	}
	return "start now: no cycle was found, so no later moment is known to be better"
}

func (p *planner) notWorth(now, then choice) string {
	return fmt.Sprintf("start now: to wait until %s would save only %s and %s, which is less than what is certain", clock(then.start),
		bytes(max(now.point.Bytes-then.point.Bytes, 0)), long(forecastTime(max(now.point.Duration-then.point.Duration, 0))))
}

func (p *planner) goodNow() string {
	if p.Deadline.IsZero() {
		return "start now: within the cycle no moment is better"
	}
	return "start now: up to the deadline at " + clock(p.Deadline) + " no moment is better that leaves time enough"
}

// Summary is an advice in one line, with the way and its ranges.
func (a Advice) Summary() string {
	return fmt.Sprintf("%s at %s by %s: %s to %s, a pause of %s to %s, %s to %s", a.Policy, clock(a.Start), a.Way, long(a.Cost.Duration.Low), long(a.Cost.Duration.High),
		pause(a.Cost.Downtime.Low.Seconds()), pause(a.Cost.Downtime.High.Seconds()), bytes(a.Cost.Bytes.Low), bytes(a.Cost.Bytes.High))
}
