package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os/exec"
	"sync"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate/journal"
)

// takeUpEvery is how often waits are looked for whose process is gone.
const takeUpEvery = 30 * time.Second

// caretaker takes up migrations that wait for their moment and whose process is gone: it was killed, or the machine has restarted.
// Each gets a coordinator again, in a session of its own, which goes on when the caretaker ends. Two never wait with the same
// one: a coordinator claims it in the journal, and finds out there that another has it. Where one fails before it waits, as with
// a host that cannot be reached yet, the wait stays in the journal and is taken up at a later look.
type caretaker struct {
	g     *globals
	log   *slog.Logger
	every time.Duration
	start func(*globals, order) (*exec.Cmd, io.ReadCloser, error)

	followers sync.WaitGroup
	mu        sync.Mutex
	mine      map[string]bool // waits with a coordinator that was started here and has not ended
}

func newCaretaker(g *globals, log *slog.Logger) *caretaker {
	return &caretaker{g: g, log: log, every: takeUpEvery, start: startCoordinator, mine: map[string]bool{}}
}

// run looks at once, and then now and again until ctx ends. The coordinators go on.
func (c *caretaker) run(ctx context.Context) {
	defer c.followers.Wait()
	tick := time.NewTicker(c.every)
	defer tick.Stop()
	for {
		if err := c.look(ctx); err != nil && ctx.Err() == nil {
			c.log.Warn("look for migrations that wait", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (c *caretaker) look(ctx context.Context) error {
	db, err := openJournal(ctx, c.g)
	if errors.Is(err, journal.ErrAbsent) {
		return nil
	}
	if err != nil {
		return err
	}
	defer db.Close()
	waits, err := db.Waits(ctx)
	for _, w := range waits {
		if !w.Alive && c.claim(w.ID) {
			c.takeUp(ctx, w)
		}
	}
	return err
}

// claim tells that no coordinator of ours is there for a wait; then there is to be one.
func (c *caretaker) claim(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mine[id] {
		return false
	}
	c.mine[id] = true
	return true
}

func (c *caretaker) drop(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.mine, id)
}

// takeUp starts a coordinator for a wait that was claimed.
func (c *caretaker) takeUp(ctx context.Context, w journal.Wait) {
	log := c.log.With("migration", w.ID, "domain", w.Domain)
	o, err := waitedOrder(c.g, w)
	if err == nil {
		var child *exec.Cmd
		var lines io.ReadCloser
		if child, lines, err = c.start(c.g, o); err == nil {
			log.Info("took up a migration that waits; its process was gone", "pid", child.Process.Pid)
			c.followers.Go(func() {
				defer c.drop(w.ID)
				attend(ctx, log, w.ID, child, lines)
			})
			return
		}
	}
	c.drop(w.ID)
	log.Warn("take up a migration that waits", "err", err)
}

// attend logs what a coordinator says, until it ends or ctx does, which leaves it to itself.
func attend(ctx context.Context, log *slog.Logger, id string, child *exec.Cmd, lines io.ReadCloser) {
	defer context.AfterFunc(ctx, func() { lines.Close() })()
	e, err := readLines(lines, func(l line) {
		if l.Wait != nil {
			log.Info("it waits", "start", l.Wait.Start, "why", l.Wait.Why)
		}
	})
	lines.Close()
	if ctx.Err() != nil {
		return
	}
	_ = child.Wait() // how it ended is in its last line, or in its absence
	switch {
	case err != nil:
		log.Warn("a migration that was taken up", "err", err, "fix", "vmmigrate status "+id)
	case e.Error != "":
		log.Warn("a migration that was taken up has ended", "code", e.Code, "err", e.Error, "fix", e.Fix)
	default:
		log.Info("a migration that was taken up has ended", "code", e.Code)
	}
}
