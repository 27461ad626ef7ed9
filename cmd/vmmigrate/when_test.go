package main

import (
	"strings"
	"testing"
	"time"
)

func TestMoment(t *testing.T) {
	zone := time.FixedZone("x", 3600)
	now := time.Date(2026, 10, 24, 22, 0, 0, 0, zone)
	at := func(day, hour, minute, second int) time.Time {
		return time.Date(2026, 10, day, hour, minute, second, 0, zone)
	}
	for text, want := range map[string]moment{
		"now": {}, "now +1h": {Deadline: at(24, 23, 0, 0)},
		"cycle": {Cycle: true, Deadline: at(24, 23, 0, 0)}, "cycle 06:00": {Cycle: true, Deadline: at(25, 6, 0, 0)},
		"22:30": {At: at(24, 22, 30, 0)}, "22:00": {At: at(25, 22, 0, 0)}, "22:00:01 +2s": {At: at(24, 22, 0, 1), Deadline: at(24, 22, 0, 2)},
		"+45m": {At: at(24, 22, 45, 0)}, "2026-10-31T20:00:00Z": {At: at(31, 21, 0, 0)}, "2026-10-31T20:00": {At: at(31, 20, 0, 0)},
	} {
		when, deadline, _ := strings.Cut(text, " ")
		got, err := (&whenFlags{when: when, deadline: deadline}).moment(now)
		if err != nil || got.Cycle != want.Cycle || !got.At.Equal(want.At) || !got.Deadline.Equal(want.Deadline) {
			t.Errorf("%q: %+v, %v; want %+v", text, got, err, want)
		}
	}
	for text, says := range map[string]string{
		"tomorrow": "none of", "+x": "from now on", "+-5m": "from now on", "now 2026-01-01T00:00:00Z": "is over", "22:30 22:15": "is not before", "cycle soon": "--deadline",
	} {
		when, deadline, _ := strings.Cut(text, " ")
		if m, err := (&whenFlags{when: when, deadline: deadline}).moment(now); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %+v, %v", text, m, err)
		}
	}
}

func TestUntilText(t *testing.T) {
	now := time.Date(2026, 10, 24, 22, 0, 0, 0, time.Local)
	for want, d := range map[string]time.Duration{"22:00:30 (in 30s)": 30 * time.Second, "2026-10-25 00:00:00 (in 2h0m0s)": 2 * time.Hour, "21:59:59 (in 0s)": -time.Second} {
		if got := untilText(now.Add(d), now); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
