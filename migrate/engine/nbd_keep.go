package engine

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
)

// keepIdle is how long nothing may move while a copy of the RAM is written: a disk that is busy takes its time with what it has
// been given at the end.
const keepIdle = time.Minute

// keepCopy leaves a copy of the guest's RAM at the source. The destination has all of it. What goes wrong is told and no more:
// the guest has moved.
func (s *nbdSession) keepCopy(ctx context.Context) {
	limit, stop := context.WithTimeoutCause(ctx, migrate.KeepLimit, fmt.Errorf("not within %v", migrate.KeepLimit))
	defer stop()
	limit, dog, end := guard(limit, keepIdle, "nothing was written")
	defer end()
	begun := time.Now()
	p, err := s.source.Keep(limit, dog.moved)
	if err = lost(limit, err); err != nil {
		s.job.Sink.Note(fmt.Sprintf("no copy of the guest's RAM was kept at the source: %v", err))
		return
	}
	s.job.Sink.Note(fmt.Sprintf("a copy of the guest's RAM, %d MiB, was kept at the source in %v; vmmigrate kept lists and drops it there",
		p.Bytes>>20, time.Since(begun).Round(time.Millisecond)))
}

// heldNote tells what the destination has of the guest's RAM.
func heldNote(h agent.Held) string {
	var parts []string
	if h.Usable {
		parts = append(parts, fmt.Sprintf("the destination has %d MiB of the guest's RAM as it was at %s: only what differs is fetched", h.Bytes>>20, h.Kept.UTC().Format(time.RFC3339)))
	} else {
		parts = append(parts, "none of the guest's RAM can be reused")
	}
	if h.Why != "" {
		parts = append(parts, h.Why)
	}
	return strings.Join(parts, ": ")
}
