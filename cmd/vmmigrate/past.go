package main

import (
	"context"
	"slices"

	"github.com/vmmigrate/vmmigrate/analysis/forecast"
	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/check"
	"github.com/vmmigrate/vmmigrate/migrate/journal"
)

// past is what earlier migrations tell of the next one.
type past struct {
	// runs are those of this guest: forecast beside actual.
	runs []forecast.Past
	// nonZero is the RAM that was not zero when the guest was moved last, and dirty what it wrote per second then; 0 is not known.
	nonZero int64
	dirty   float64
	// link is what the link carried, in bytes per second, and still what it carried while the guest stood still; 0 is not known.
	link, still float64
}

// How far back the past goes.
const (
	pastRuns  = 200
	pastLinks = 5 // the last runs that tell of the link
)

// pastOf reads it from the journal, newest first. db may be nil: then there is none. A guest without a UUID is known by its name
// and host.
func pastOf(ctx context.Context, db *journal.Journal, res check.Result, uuid string) past {
	var p past
	if db == nil {
		return p
	}
	all, err := db.History(ctx, pastRuns)
	if err != nil {
		return p
	}
	links := map[migrate.EngineName][]float64{}
	var stills []float64
	for _, s := range all {
		if s.Report == nil || s.Report.RAM == nil || s.Report.Outcome != migrate.OutcomeCompleted {
			continue
		}
		if v := carried(*s.Report); v > 0 && between(s.Entry, res.Source, res.Destination) && len(links[s.Entry.Engine]) < pastLinks {
			links[s.Entry.Engine] = append(links[s.Entry.Engine], v)
			if v := stillCarried(*s.Report); v > 0 {
				stills = append(stills, v)
			}
		}
		if uuid != "" && s.Entry.DomainUUID == uuid || uuid == "" && s.Entry.DomainUUID == "" && s.Entry.Domain == res.Domain && s.Entry.Source == res.Source {
			p.take(*s.Report)
		}
	}
	p.link, p.still = middleOf(links[res.Engine]), middleOf(stills)
	for _, other := range links {
		if p.link == 0 {
			p.link = middleOf(other)
		}
	}
	return p
}

// between tells whether a migration was between two hosts, either way.
func between(e migrate.Entry, a, b string) bool {
	return e.Source == a && e.Dest == b || e.Source == b && e.Dest == a
}

// take adds a run of the guest. Those that come first are the latest.
func (p *past) take(r migrate.Report) {
	if n := notZero(r); p.nonZero == 0 {
		p.nonZero = n
	}
	if d := r.RAM.DirtyBytesPerS; d != nil && p.dirty == 0 {
		p.dirty = float64(*d)
	}
	was, ok := r.Predicted[r.Strategy]
	if !ok || was.Model == nil {
		return
	}
	run := forecast.Past{Way: forecast.Way{Engine: string(r.Engine), Strategy: string(r.Strategy)}, Predicted: pointOf(was.Model)}
	actual := migrate.ReportPoint{DowntimeMS: r.DowntimeMS}
	if r.TotalMS != nil {
		actual.TotalMS = *r.TotalMS
	}
	if n := r.Sent(); n != nil {
		actual.SentBytes = *n
	}
	run.Actual = pointOf(&actual)
	p.runs = append(p.runs, run)
}

func pointOf(p *migrate.ReportPoint) forecast.Point {
	out := forecast.Point{Duration: p.TotalMS / 1000, Bytes: float64(p.SentBytes)}
	if p.DowntimeMS != nil {
		out.Downtime = *p.DowntimeMS / 1000
	}
	return out
}

// notZero is how much of the guest's RAM was not zero: as counted, or what went in a first pass over all of it. 0 is not known.
func notZero(r migrate.Report) int64 {
	switch ram := r.RAM; {
	case ram.NonzeroBytes != nil:
		return *ram.NonzeroBytes
	case ram.ReusedPages != nil && *ram.ReusedPages > 0:
	case r.Strategy == migrate.StrategyPostcopy && ram.SentBytes != nil:
		return *ram.SentBytes
	case r.Strategy != migrate.StrategyPostcopy && len(ram.Rounds) > 0:
		return ram.Rounds[0].Bytes
	}
	return 0
}

// leastCarried is how many bytes must have gone for their speed to say something of the link.
const leastCarried = 16 << 20

// carried is what the link carried in a run, in bytes per second: in its largest round, or while pages were fetched. 0 where it does
// not tell.
func carried(r migrate.Report) float64 {
	most, speed := int64(leastCarried-1), 0.0
	for _, round := range r.RAM.Rounds {
		if round.Bytes > most && round.MS > 0 {
			most, speed = round.Bytes, float64(round.Bytes)/round.MS*1000
		}
	}
	if n := r.RAM.SentBytes; speed == 0 && r.Strategy == migrate.StrategyPostcopy && n != nil && *n >= leastCarried {
		for _, p := range r.Phases {
			if p.Name == migrate.PhasePaging.String() && p.MS > 0 {
				speed = float64(*n) / p.MS * 1000
			}
		}
	}
	return speed
}

// stillCarried is what it carried while the guest stood still and left the processors to the link; 0 where that is not known.
func stillCarried(r migrate.Report) float64 {
	const least = 4 << 20
	if n := len(r.RAM.Rounds); n > 1 && r.Engine == migrate.EngineNative && r.DowntimeMS != nil {
		if last := r.RAM.Rounds[n-1]; last.Bytes >= least && last.MS > 0 && last.MS <= *r.DowntimeMS {
			return float64(last.Bytes) / last.MS * 1000
		}
	}
	return 0
}

func middleOf(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[len(values)/2]
}
