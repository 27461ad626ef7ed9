package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/vmmigrate/vmmigrate/testenv"
	"github.com/vmmigrate/vmmigrate/testenv/oracle"
)

// workPatience bounds one Work, and workStep is the time between two looks at how far it is.
const (
	workPatience = 2 * time.Minute
	workStep     = 50 * time.Millisecond
)

// stay moves the guest to where it returns from, has it write what the row says, and says what the source sent on its link.
func (s *session) stay(ctx context.Context, v venue, row Row, workload string) (*float64, error) {
	for _, h := range s.lab.Hosts() {
		if err := s.forgetRAM(ctx, h); err != nil {
			return nil, err
		}
	}
	a, err := v.aim(ctx)
	if err != nil {
		return nil, err
	}
	before, err := a.from.Link().Counters(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.migrate(ctx, a, row, &Run{}); err != nil {
		return nil, err
	}
	after, err := a.from.Link().Counters(ctx)
	if err != nil {
		return nil, err
	}
	o, err := v.oracle(ctx)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	for _, w := range row.Stay {
		if err := w.done(ctx, o); err != nil {
			return nil, err
		}
	}
	bytes := float64(after.SentBytes - before.SentBytes)
	return &bytes, o.SetWorkload(ctx, workload)
}

// forgetRAM drops the copies of guests' RAM that a host has.
func (s *session) forgetRAM(ctx context.Context, h *testenv.Host) error {
	out, err := h.Output(ctx, s.Program, "kept", "--drop-all")
	if err != nil {
		return fmt.Errorf("drop copies of RAM on host %s: %w: %s", h.Name(), err, lastLines(out))
	}
	return nil
}

// done returns once the guest has done it.
func (w Work) done(ctx context.Context, o *oracle.Client) error {
	ctx, stop := context.WithTimeout(ctx, workPatience)
	defer stop()
	if err := o.SetWorkload(ctx, w.Workload); err != nil {
		return err
	}
	for {
		st, err := o.Stats(ctx)
		if err != nil {
			return err
		}
		if st.PagesWritten >= w.Pages && st.BlocksWritten >= w.Blocks {
			return nil
		}
		if err := pause(ctx, workStep); err != nil {
			return fmt.Errorf("%s: %d pages and %d blocks are written: %w", w.Workload, st.PagesWritten, st.BlocksWritten, err)
		}
	}
}

// returned works out what a way back is of the way there.
func (run *Run) returned(first *float64) {
	if first != nil && *first > 0 && run.LinkBytes != nil {
		part := *run.LinkBytes / *first
		run.FirstBytes, run.ReturnPart = first, &part
	}
}
