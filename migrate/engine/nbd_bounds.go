package engine

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
)

// soon bounds a call of an agent that has nothing to wait for. An agent that does not answer within the limit is taken for
// lost: it may have done what it was told, and whoever is told has to ask.
func (s *nbdSession) soon(ctx context.Context) (context.Context, context.CancelFunc) {
	return within(ctx, s.switchLimit)
}

func within(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, limit, fmt.Errorf("%w: the agent does not answer within %v", migrate.ErrLinkLost, limit))
}

// lost says of an error that a limit of ours was its cause.
func lost(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	if why := context.Cause(ctx); why != ctx.Err() {
		return fmt.Errorf("%w (%w)", why, err)
	}
	return err
}

// idle is how long RAM may be fetched without anything moving, besides what a cap on the bandwidth explains.
func (s *nbdSession) idle() time.Duration {
	return s.idleLimit + capped(s.job.Params.Bandwidth)
}

// capped is how long a cap in bytes a second may explain that nothing moves.
func capped(bandwidth int64) time.Duration {
	if bandwidth <= 0 {
		return 0
	}
	return time.Duration(8 << 20 * int64(time.Second) / bandwidth)
}

// watchdog ends a context when it has not been fed for a time.
type watchdog struct {
	after time.Duration
	timer *time.Timer

	mu   sync.Mutex
	last agent.Progress
}

// guard starts a watchdog; stop ends it and the context.
func guard(ctx context.Context, after time.Duration, what string) (_ context.Context, w *watchdog, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	w = &watchdog{after: after}
	w.timer = time.AfterFunc(after, func() { cancel(fmt.Errorf("%w: %s for %v", migrate.ErrLinkLost, what, after)) })
	return ctx, w, func() { w.timer.Stop(); cancel(nil) }
}

// feed says that somebody is there.
func (w *watchdog) feed() { w.timer.Reset(w.after) }

// moved feeds it if something has moved since the last call.
func (w *watchdog) moved(p agent.Progress) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p.Bytes != w.last.Bytes || p.Pages != w.last.Pages || p.ZeroPages != w.last.ZeroPages {
		w.last = p
		w.feed()
	}
}
