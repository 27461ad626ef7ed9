package engine

import (
	"sync"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/precopy"
)

// figures turn the agents' progress into what a report and a progress bar are made of. They are safe for several
// goroutines.
type figures struct {
	mu     sync.Mutex
	last   agent.Progress
	number int64
	dirty  *int64
	status string
	// whole is how many pages came with contents in the first round, in which each page comes once; -1 is never to be known,
	// as of a migration that was taken up again.
	whole int64
}

// latest is the last progress.
func (f *figures) latest() agent.Progress {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

// paging says that the guest runs at the destination.
func (f *figures) paging() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status = statusPostcopy
}

// cutShort says that others have begun, and that what came before is not known.
func (f *figures) cutShort() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.whole = -1
}

// begin notes each round as it begins.
func (f *figures) begin(sink migrate.Sink) func(precopy.Round) {
	return func(r precopy.Round) {
		f.mu.Lock()
		f.number = int64(r.Number)
		f.mu.Unlock()
		sink.Guest(migrate.SideSource, migrate.GuestEvent{Kind: migrate.EventRound, Round: r.Number, Seen: time.Now()})
	}
}

// observe notes what a round showed of the guest.
func (f *figures) observe(r precopy.Round) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.Number == 1 {
		f.whole = r.Pages
	}
	if r.DirtyRate > 0 {
		f.dirty = &r.DirtyRate
	}
}

// take keeps the newest progress and gives it as the figures of a job.
func (f *figures) take(p agent.Progress, total int64, pageSize int64) migrate.Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last = p
	status := f.status
	if status == "" {
		status = "active"
	}
	st := migrate.Stats{Status: status, RAMTotal: &total, RAMRemaining: &p.Remaining, RAMSent: &p.Bytes,
		NormalPages: &p.Pages, ZeroPages: &p.ZeroPages, Reused: p.Reused, PageSize: &pageSize, DirtyRate: f.dirty}
	switch {
	case f.whole > 0:
		n := f.whole * pageSize
		st.Nonzero = &n
	case f.whole == 0 && f.status == statusPostcopy && p.Remaining == 0: // no rounds, so each page came once
		n := p.Pages * pageSize
		st.Nonzero = &n
	}
	if p.Bandwidth > 0 {
		st.Bandwidth = &p.Bandwidth
	}
	if f.number > 0 {
		n := f.number
		st.Round = &n
	}
	if f.status == statusPostcopy {
		st.Faults, st.Prepaged = &p.Faults, &p.Prepaged
		if p.FaultUS != nil {
			st.FaultUS = &migrate.ReportFault{P50: p.FaultUS.P50, P99: p.FaultUS.P99, Max: p.FaultUS.Max}
		}
	}
	return st
}

// progress takes an agent's progress.
func (s *nbdSession) progress(p agent.Progress) {
	var total, page int64
	for _, b := range s.blocks {
		total += b.Size
		page = b.PageSize
	}
	s.job.Sink.Stats(s.figures.take(p, total, page))
}
