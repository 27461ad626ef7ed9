package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
)

// While a guest waits for pages the agents are asked every askEvery whether they are there, and have answerLimit to say so. A
// source's agent whose answer fails is left alone unless no RAM comes from it for quietLimit.
const (
	askEvery    = time.Second
	answerLimit = 5 * time.Second
	quietLimit  = 2 * time.Second
)

var (
	errSilent    = errors.New("it does not answer")
	errNotLanded = errors.New("the guest was not started")
)

// landed waits until the destination's driver has done its part in starting the guest, well or not (notLanded).
func (s *nbdSession) landed(ctx context.Context) error {
	if s.finish == nil {
		return nil // another session had it done
	}
	select {
	case <-s.finish.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// notLanded is why the destination's driver could not start the guest, if that is known.
func (s *nbdSession) notLanded() error {
	if s.finish == nil {
		return nil
	}
	select {
	case <-s.finish.done:
		return s.finish.err
	default:
		return nil
	}
}

// pageIn waits until nothing is missing at the destination, as long as both agents are seen to live and RAM moves: an agent that
// is gone, or stands still, costs the guest the time until another takes its place.
func (s *nbdSession) pageIn(ctx context.Context) error {
	paging, dog, stop := guard(ctx, 2*answerLimit, "the destination's agent told nothing")
	defer stop()
	paging, still, stopStill := guard(paging, s.stuckAfter(), "no RAM moved")
	defer stopStill()
	paging, cancel := context.WithCancelCause(paging)
	var came atomic.Int64
	var watchers sync.WaitGroup
	watchers.Go(func() {
		if err := s.sourceAnswers(paging, &came); err != nil {
			cancel(err)
		}
	})
	watchers.Go(func() {
		if s.landed(paging) == nil && s.notLanded() != nil {
			cancel(errNotLanded)
		}
	})
	defer func() { cancel(nil); watchers.Wait() }()
	p, err := s.dest.Page(paging, func(p agent.Progress) {
		dog.feed()
		still.moved(p)
		came.Store(p.Bytes)
		s.progress(p)
		if p.Remaining > 0 {
			s.reached(ctx, "in-page")
		}
	})
	if err == nil {
		s.progress(p)
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s.silent = paging.Err() != nil
	return lost(paging, err)
}

// stuckAfter is how long pages may be missing without one coming, besides what a cap on the bandwidth explains. The destination's
// agent notices a lost link before that, and another policy's quiet guest is brought its pages all the same.
func (s *nbdSession) stuckAfter() time.Duration {
	return 2*s.idleLimit + capped(s.job.Params.BandwidthPostcopy)
}

// sourceAnswers asks the source's agent again and again, until the context ends or it does not answer. As long as RAM comes
// it is there, however long its answers take: they may share a slow link with that RAM.
func (s *nbdSession) sourceAnswers(ctx context.Context, came *atomic.Int64) error {
	if s.source == nil {
		return nil
	}
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		before, quiet := came.Load(), time.After(quietLimit)
		ask, stop := context.WithTimeoutCause(ctx, answerLimit, errSilent)
		_, err := s.source.Stats(ask)
		err = lost(ask, err)
		stop()
		if err == nil {
			continue
		}
		select {
		case <-quiet:
		case <-ctx.Done():
			return nil
		}
		if came.Load() == before {
			return fmt.Errorf("%w: the source's agent: %w", migrate.ErrLinkLost, err)
		}
	}
}

// keepServed replaces agents that are gone while the destination's QEMU loads its devices' state, until stop is called. Some of
// that state is in RAM, such as a disk's queues, and a QEMU that waits there for a page that nobody brings answers nobody any
// more. To bring pages decides nothing: QEMU was told to run the guest once it has all of its state, and ends if it lacks some.
func (s *nbdSession) keepServed(ctx context.Context) (stop func()) {
	watch, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	missed := 0
	if s.unheard {
		missed = 1
	}
	wg.Go(func() {
		if !s.agentLost(watch, missed) {
			return
		}
		for watch.Err() == nil {
			err := s.Recover(ctx) // not to be cut off half-way
			if err == nil {
				s.figures.paging()
				s.figures.cutShort()
				s.job.Sink.Note("an agent was gone before the guest ran at the destination; another one brings the pages that QEMU waits for")
				err = s.pageIn(watch)
			}
			if err == nil {
				return
			}
			s.log.Debug("serve a destination that loads the guest", "err", err)
			select {
			case <-time.After(askEvery):
			case <-watch.Done():
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}

// agentLost waits until an agent is gone, or ctx ends. One that is only slow must not be taken for gone: with it goes what it has
// not yet passed on of QEMU's stream. missed is how many of its answers were waited for in vain before.
func (s *nbdSession) agentLost(ctx context.Context, missed int) bool {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for missed < 2 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
		if missed++; s.agentsAnswer(ctx) {
			missed = 0
		}
	}
	return ctx.Err() == nil
}

// agentsAnswer tells whether both agents of this session are still there.
func (s *nbdSession) agentsAnswer(ctx context.Context) bool {
	ctx, stop := context.WithTimeout(ctx, answerLimit)
	defer stop()
	for _, a := range []agent.Agent{s.srcAgent, s.dstAgent} {
		if a == nil {
			return false
		}
		if _, err := a.Hello(ctx); err != nil {
			return false
		}
	}
	_, err := s.source.Stats(ctx)
	return err == nil
}

// dropAgents lets go of agents that are of no use any more. A destination's agent that still pages goes on until the new one
// takes the guest over from it.
func (s *nbdSession) dropAgents(ctx context.Context) {
	if s.source != nil && !s.silent {
		ctx, stop := context.WithTimeout(ctx, answerLimit)
		defer stop()
		if err := s.source.Close(ctx); err != nil {
			s.log.Debug("close the source's end", "err", err)
		}
	}
	for _, a := range []agent.Agent{s.srcAgent, s.dstAgent} {
		if a == nil {
			continue
		}
		s.wg.Go(func() { // the guest waits: not for a process to end
			if err := a.Close(); err != nil {
				s.log.Debug("close the connection to an agent", "err", err)
			}
		})
	}
	s.source, s.dest, s.srcAgent, s.dstAgent = nil, nil, nil, nil
	s.silent, s.takenBack = false, false
}
