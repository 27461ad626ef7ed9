package engine

import (
	"fmt"
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

// encryptsDisks refuses to let the drivers copy disks in the clear where the user asked for encryption: their NBD connections
// have QEMU's TLS with QEMU's own stream only, and that goes through the agents here.
func encryptsDisks(p migrate.Params) error {
	if p.TLS && !p.DisksByAgents() && p.CopyStorage == migrate.CopyInc {
		return fmt.Errorf("TLS with disks that QEMU copies itself: %w: the agents encrypt what they move, and the disks would go in the clear", migrate.ErrNotSupported)
	}
	return nil
}

// tellInTheClear says that the disks are not encrypted although the RAM is.
func (s *nbdSession) tellInTheClear() {
	if !s.job.Params.PlainData {
		s.job.Sink.Note("the RAM is encrypted, the disks are not: QEMU copies them itself; --engine native --tls encrypts both")
	}
}
