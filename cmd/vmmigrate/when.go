package main

import (
	"fmt"
	"time"

	"github.com/spf13/pflag"
)

// moment says when a migration is to begin. The zero value is now.
type moment struct {
	// At is a time to begin at; zero if none was given.
	At time.Time `json:"at,omitzero"`
	// Cycle asks for the best time by what the guest does.
	Cycle bool `json:"cycle,omitempty"`
	// Deadline is when the migration is to be over at the latest; zero if there is none.
	Deadline time.Time `json:"deadline,omitzero"`
}

// waits tells that it does not begin at once.
func (m moment) waits() bool { return m.Cycle || !m.At.IsZero() }

// whenFlags are --when and --deadline.
type whenFlags struct{ when, deadline string }

func (f *whenFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.when, "when", "now", "`MOMENT` to begin: now; cycle for the best one by the guest's workload; or a time: 22:30, 2026-01-31T22:30:00Z, +45m")
	fs.StringVar(&f.deadline, "deadline", "", "`TIME` by which it is to be over, as for --when; with --when cycle the default is +1h")
}

// defaultDeadline is how long --when cycle looks ahead where nothing else is said.
const defaultDeadline = time.Hour

// moment reads both options at the time now.
func (f *whenFlags) moment(now time.Time) (moment, error) {
	var m moment
	var err error
	switch f.when {
	case "", "now":
	case "cycle":
		m.Cycle, m.Deadline = true, now.Add(defaultDeadline)
	default:
		if m.At, err = timeOf("--when", f.when, now); err != nil {
			return m, err
		}
	}
	if f.deadline != "" {
		if m.Deadline, err = timeOf("--deadline", f.deadline, now); err != nil {
			return m, err
		}
	}
	if !m.Deadline.IsZero() && !m.Deadline.After(now) {
		return m, usagef("--deadline %s is over", f.deadline)
	}
	if !m.At.IsZero() && !m.Deadline.IsZero() && !m.At.Before(m.Deadline) {
		return m, usagef("--when %s is not before --deadline %s", f.when, f.deadline)
	}
	return m, nil
}

// timeOf reads a time: of the day (the next one), a date with it, or a time from now on.
func timeOf(flag, text string, now time.Time) (time.Time, error) {
	if text[0] == '+' {
		d, err := time.ParseDuration(text[1:])
		if err != nil || d < 0 {
			return time.Time{}, usagef("%s %s: a time from now on is written +90s, +45m or +2h30m", flag, text)
		}
		return now.Add(d), nil
	}
	for _, form := range []string{time.RFC3339, "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02T15:04:05", "2006-01-02T15:04"} {
		if t, err := time.ParseInLocation(form, text, now.Location()); err == nil {
			return t, nil
		}
	}
	for _, form := range []string{"15:04:05", "15:04"} {
		t, err := time.ParseInLocation(form, text, now.Location())
		if err != nil {
			continue
		}
		y, mon, day := now.Date()
		next := time.Date(y, mon, day, t.Hour(), t.Minute(), t.Second(), 0, now.Location())
		if !next.After(now) {
			next = time.Date(y, mon, day+1, t.Hour(), t.Minute(), t.Second(), 0, now.Location())
		}
		return next, nil
	}
	return time.Time{}, usagef("%s %s is none of now, cycle, 22:30, 2026-01-31T22:30:00Z, +45m", flag, text)
}

// untilText is a moment as a person reads it: the time, with the date if it is not today's, and how long it is until then.
func untilText(t, now time.Time) string {
	form := time.TimeOnly
	if y, m, d := t.Local().Date(); y != now.Local().Year() || m != now.Local().Month() || d != now.Local().Day() {
		form = time.DateTime
	}
	return fmt.Sprintf("%s (in %s)", t.Local().Format(form), max(t.Sub(now), 0).Round(time.Second))
}
