package engine

import (
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// copyFigures passes on, until the driver's copying has ended, what it knows of the disks. The rest of its figures is about a
// stream without RAM.
func (s *nbdSession) copyFigures(done <-chan struct{}) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for last := false; !last; {
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			return
		case <-done:
			last = true
		}
		s.sampleDisks()
	}
}

func (s *nbdSession) sampleDisks() {
	st, err := s.src.Stats(s.ctx, s.job.Domain)
	if err != nil {
		s.log.Debug("stats of the disks", "err", err)
		return
	}
	if st.DiskTotal != nil || len(st.Disks) > 0 {
		s.job.Sink.Stats(migrate.Stats{DiskTotal: st.DiskTotal, DiskRemaining: st.DiskRemaining, DiskSent: st.DiskSent, Disks: st.Disks})
	}
}
