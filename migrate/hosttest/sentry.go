package hosttest

import (
	"context"
	"strings"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// sentry asks both ends again and again until the test ends, and fails it when both run the guest.
func (r *run) sentry() {
	ctx, cancel := context.WithCancel(r.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			if d := twoRunners(ctx, r.Source, r.Dest, r.Name); d != nil {
				r.t.Errorf("the guest ran on both hosts at once; the destination said %s (%s)", d.Run, d.Reason)
				return
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	r.t.Cleanup(func() {
		cancel()
		<-done
	})
}

// twoRunners tells for certain: the source runs the guest both before and after the destination is seen to run it, in the
// state that it returns. Nil: it is not so.
func twoRunners(ctx context.Context, src, dst migrate.Host, name string) *migrate.GuestState {
	if !runsHome(ctx, src, name) {
		return nil
	}
	d, err := dst.State(ctx, name)
	if err != nil || !runs(d) || !runsHome(ctx, src, name) {
		return nil
	}
	return &d
}

// runsHome tells whether the source says that it runs the guest. In post-copy a source stands still and serves RAM.
func runsHome(ctx context.Context, h migrate.Host, name string) bool {
	s, err := h.State(ctx, name)
	return err == nil && s.Run == migrate.RunRunning
}

// runs tells whether a host that answers this has the guest's CPUs running, in post-copy too.
func runs(s migrate.GuestState) bool {
	switch s.Run {
	case migrate.RunRunning:
		// libvirt says so from QEMU's last event to the end of its process: the CPUs have stopped for good by then, as in
		// a destination that is removed without ever having run.
		return s.Reason != "shutting down"
	case migrate.RunPostcopy, migrate.RunPostcopyPaused:
		// A destination that has the device state and was not told to run is in post-copy, too, with its CPUs stopped.
		return !strings.HasPrefix(s.Reason, "paused")
	}
	return false
}
