package hosttest

import (
	"context"
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
			if twoRunners(ctx, r.Source, r.Dest, r.Name) {
				r.t.Error("the guest ran on both hosts at once")
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

// twoRunners tells for certain: the source runs the guest both before and after the destination is seen to run it.
func twoRunners(ctx context.Context, src, dst migrate.Host, name string) bool {
	return runsHome(ctx, src, name) && runs(ctx, dst, name) && runsHome(ctx, src, name)
}

// runsHome tells whether the source says that it runs the guest. In post-copy a source stands still and serves RAM.
func runsHome(ctx context.Context, h migrate.Host, name string) bool {
	s, err := h.State(ctx, name)
	return err == nil && s.Run == migrate.RunRunning
}

// runs tells whether a host says that the guest's CPUs run there, in post-copy too. A host that gives no answer counts
// as not running, since nothing is known of it.
func runs(ctx context.Context, h migrate.Host, name string) bool {
	s, err := h.State(ctx, name)
	if err != nil {
		return false
	}
	switch s.Run {
	case migrate.RunRunning, migrate.RunPostcopy, migrate.RunPostcopyPaused:
		return true
	}
	return false
}
