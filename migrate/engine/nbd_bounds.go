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
// lost: it may have done what it was told, and whoever is told has to ask. So is one that is not there for anything else, either,
// which shows earlier: work on much RAM takes its time, and a guest may stand still meanwhile.
func (s *nbdSession) soon(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := within(ctx, s.switchLimit)
	ctx, unwatch := s.whileAgentsAnswer(ctx)
	return ctx, func() { unwatch(); stop() }
}

func within(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, limit, fmt.Errorf("%w: the agent does not answer within %v", migrate.ErrLinkLost, limit))
}

// whileAgentsAnswer is a context that ends, too, once an agent is gone. The first question is put after askEvery: an agent that does
// its part at once is asked nothing.
func (s *nbdSession) whileAgentsAnswer(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	if s.source == nil { // they are not open yet
		return ctx, func() { cancel(nil) }
	}
	var watcher sync.WaitGroup
	watcher.Go(func() {
		if s.agentLost(ctx, 0) {
			cancel(fmt.Errorf("%w: an agent does not answer", migrate.ErrLinkLost))
		}
	})
	return ctx, func() { cancel(nil); watcher.Wait() }
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
