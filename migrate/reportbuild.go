package migrate

import (
	"errors"
	"time"
)

// report puts together what was recorded.
func (r *recorder) report(e Entry, end End, err error, now time.Time) Report {
	out := Report{Schema: ReportSchema, Migration: e.ID, Domain: e.Domain, Source: e.Source, Dest: e.Dest,
		Started: e.Started.UTC().Format(time.RFC3339Nano), Engine: e.Engine, EngineReason: e.EngineReason, Strategy: e.Params.Strategy,
		Outcome: end.Outcome, Owner: end.Owner, TotalMS: pointer(ms(now.Sub(r.began))), Predicted: r.predicted, Notes: r.notes}
	if err != nil {
		out.Error = reportError(err)
	}
	r.downtime(&out)
	out.RAM, out.Disks = r.ramReport(), r.diskReport()
	out.Phases = r.phaseReport(now)
	return out
}

func reportError(err error) *ReportError {
	var oe *OpError
	if !errors.As(err, &oe) {
		return &ReportError{Phase: PhaseChecking.String(), Cause: err.Error(), Fix: FixOf(err)}
	}
	plain := *oe
	plain.Phase = 0 // it has a field of its own
	return &ReportError{Phase: oe.Phase.String(), Cause: plain.Error(), Fix: FixOf(err)}
}

// phaseReport merges marks of one phase that follow each other and drops no time: the phases add up to the total.
func (r *recorder) phaseReport(now time.Time) []ReportPhase {
	var out []ReportPhase
	for i, m := range r.phases {
		until := now
		if i+1 < len(r.phases) {
			until = r.phases[i+1].at
		}
		if m.phase == PhaseEnded {
			continue
		}
		out = append(out, ReportPhase{Name: m.phase.String(), StartMS: ms(m.at.Sub(r.began)), MS: ms(until.Sub(m.at))})
	}
	return out
}

// downtime is STOP on the source to RESUME on the destination, or back to RESUME on the source where the migration was
// taken back. Both ends' own stamps are used where both events carry one and the clocks were found to agree; the
// stamps are then moved onto the coordinator's clock, so that the parts add up.
func (r *recorder) downtime(out *Report) {
	if r.stop == nil {
		return
	}
	if r.landed == nil {
		if r.started != nil {
			from, to, by := r.span(*r.stop, *r.started, r.sourceClock, r.sourceClock, true)
			out.setDowntime(by, map[string]float64{"return": ms(to.Sub(from))})
		}
		return
	}
	from, to, by := r.span(*r.stop, *r.landed, r.sourceClock, r.destClock, r.clocksAgree())
	if to.Before(from) {
		return // events out of order: nothing that could be told honestly
	}
	ready, committed := clampTime(r.readyAt, from, to), clampTime(r.committedAt, from, to)
	parts := map[string]float64{"last_copy": ms(ready.Sub(from))}
	if !r.committedAt.IsZero() && committed.After(ready) {
		parts["commit"] = ms(committed.Sub(ready))
		ready = committed
	}
	if to.After(ready) {
		parts["resume"] = ms(to.Sub(ready))
	}
	out.setDowntime(by, parts)
}

// setDowntime makes the whole the sum of its parts.
func (out *Report) setDowntime(by string, parts map[string]float64) {
	sum := time.Duration(0)
	for _, v := range parts {
		sum += time.Duration(v * float64(time.Millisecond)).Round(time.Microsecond)
	}
	out.DowntimeMS, out.DowntimeClock, out.DowntimeParts = pointer(ms(sum)), by, parts
}

// The clocks a pause was measured by.
const (
	clockHosts   = "hosts"
	clockArrival = "arrival"
)

func (r *recorder) span(a, b GuestEvent, ca, cb hostClock, agree bool) (from, to time.Time, by string) {
	if !agree || a.At.IsZero() || b.At.IsZero() {
		return a.Seen, b.Seen, clockArrival
	}
	offset := (ca.offset + cb.offset) / 2
	return a.At.Add(-offset), b.At.Add(-offset), clockHosts
}

// clockSlack is how far apart two hosts' clocks may be for their stamps to be subtracted: less than it matters in a pause.
const clockSlack = 2 * time.Millisecond

// clocksAgree: as far as asking could tell, the clocks differ by less than the slack, and asking could tell that well.
func (r *recorder) clocksAgree() bool {
	s, d := r.sourceClock, r.destClock
	return s.known && d.known && (s.offset-d.offset).Abs() <= clockSlack && s.err+d.err <= 5*clockSlack
}

// clampTime puts t between from and to; an unknown time is the end.
func clampTime(t, from, to time.Time) time.Time {
	switch {
	case t.IsZero() || t.After(to):
		return to
	case t.Before(from):
		return from
	}
	return t
}

func (r *recorder) ramReport() *ReportRAM {
	s := r.last
	if s == nil {
		return nil
	}
	return &ReportRAM{TotalBytes: sane(s.RAMTotal), SentBytes: sane(s.RAMSent), Rounds: r.rounds, Faults: sane(s.Faults),
		NonzeroBytes: sane(s.Nonzero), FaultUS: s.FaultUS, PrepagedPages: sane(s.Prepaged), ReusedPages: sane(s.Reused),
		ThrottlePct: sane(s.Throttle), DirtyBytesPerS: sane(s.DirtyRate)}
}

// diskReport lists the disks that travelled. Where what was sent is known of all together only, it is given if there is one.
func (r *recorder) diskReport() []ReportDisk {
	var out []ReportDisk
	for _, d := range r.disks {
		rd := ReportDisk{Name: d.Target, Bytes: d.Capacity}
		if len(r.disks) == 1 && r.last != nil {
			rd.SentBytes = sane(r.last.DiskSent)
		}
		if m := r.copies[d.Target]; m != nil {
			rd.Way, rd.Writes = m.last.Way, m.last.Writes
			if sent := sane(m.last.Sent); sent != nil {
				rd.SentBytes = sent
			}
			if !m.inStep.IsZero() {
				rd.MS = pointer(ms(m.inStep.Sub(m.first)))
			}
		}
		out = append(out, rd)
	}
	return out
}
