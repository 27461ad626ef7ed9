package main

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/sample"
	"github.com/vmmigrate/vmmigrate/analysis/sample/store"
	"github.com/vmmigrate/vmmigrate/migrate/sampler"
)

// samplesPath is where samples are kept: beside the journal.
func samplesPath(g *globals) (string, error) {
	dir, err := g.state()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, samplesFile), nil
}

// What a recorder does how often.
const (
	keepEvery = 10 * time.Second
	tidyEvery = 10 * time.Minute
)

// recorder gathers samples and keeps them, some seconds at a time. It owns a goroutine while it tidies the store.
type recorder struct {
	s      *store.Store
	log    *slog.Logger
	got    map[string]*store.Batch // by UUID
	kept   time.Time
	tidied time.Time
	wg     sync.WaitGroup
	idle   chan struct{} // holds one while nobody tidies
}

func newRecorder(s *store.Store, log *slog.Logger) *recorder {
	now := time.Now()
	r := &recorder{s: s, log: log, got: map[string]*store.Batch{}, kept: now, tidied: now, idle: make(chan struct{}, 1)}
	r.idle <- struct{}{}
	return r
}

// add takes samples in.
func (r *recorder) add(ctx context.Context, all []sampler.Sample) error {
	for _, s := range all {
		b := s.Batch()
		into := r.got[b.Guest.UUID]
		if into == nil {
			into = &store.Batch{}
			r.got[b.Guest.UUID] = into
		}
		into.Guest = b.Guest
		for _, m := range b.Metrics {
			into.Metrics = extend(into.Metrics, m)
		}
		for _, w := range b.Windows {
			into.Windows = extend(into.Windows, w)
		}
	}
	if time.Since(r.kept) < keepEvery {
		return nil
	}
	return r.keep(ctx)
}

// extend adds a series to one of the same metric and step that it follows, or beside them.
func extend(list []sample.Series, s sample.Series) []sample.Series {
	for i := range list {
		if l := &list[i]; l.Name == s.Name && l.Step == s.Step && l.Append(s.Start, s.Values[0]) == nil {
			return list
		}
	}
	return append(list, s)
}

// keep writes what was gathered, and now and then has the store tidied.
func (r *recorder) keep(ctx context.Context) error {
	var all []store.Batch
	for _, b := range r.got {
		all = append(all, *b)
	}
	clear(r.got)
	r.kept = time.Now()
	if err := r.s.Put(ctx, all...); err != nil {
		return err
	}
	if time.Since(r.tidied) < tidyEvery {
		return nil
	}
	select {
	case <-r.idle:
		r.tidied = time.Now()
		r.wg.Go(func() {
			if err := r.s.Tidy(ctx); err != nil && ctx.Err() == nil {
				r.log.Warn("the samples could not be tidied", "err", err)
			}
			r.idle <- struct{}{}
		})
	default:
	}
	return nil
}

// close keeps the rest and closes the store.
func (r *recorder) close() error {
	r.wg.Wait()
	return errors.Join(r.keep(context.Background()), r.s.Close())
}
