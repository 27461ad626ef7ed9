package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/testenv/internal/hugepages"
	"github.com/vmmigrate/vmmigrate/testenv/internal/owner"
)

// Main is the program of a lab's daemon. It returns the exit code when the lab is
// told to end or could not be built.
func Main() int {
	file := os.NewFile(ControlFD, "control")
	conn, err := net.FileConn(file)
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab daemon: no control connection:", err)
		return 1
	}
	file.Close()
	if err := run(conn); err != nil {
		fmt.Fprintln(os.Stderr, "lab daemon:", err)
		return 1
	}
	return 0
}

// errStarterGone ends a lab whose starter has ended.
var errStarterGone = errors.New("the process that started the lab has ended")

// run reads what to build, builds it and holds it.
func run(conn net.Conn) error {
	told, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	var start Start
	if err := json.NewDecoder(conn).Decode(&start); err != nil {
		return fmt.Errorf("read what to build: %w", err)
	}
	// The starter sends nothing more, so whatever ends the read is its end.
	tied, lost := context.WithCancelCause(told)
	defer lost(nil)
	var watch sync.WaitGroup
	watch.Go(func() {
		_, _ = io.Copy(io.Discard, conn)
		lost(errStarterGone)
	})
	defer watch.Wait()
	defer conn.Close()
	life := told
	if start.Bound {
		life = tied
	}
	return hold(tied, life, conn, start)
}

// hold builds the lab, which takes until building ends at the latest, reports, and
// stays until life ends.
func hold(building, life context.Context, conn net.Conn, start Start) error {
	log, err := os.OpenFile(start.Plan.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	out := &reporter{out: json.NewEncoder(conn)}
	l := newLab(start, log, out)
	if err := l.build(building, life); err != nil {
		if building.Err() != nil {
			err = context.Cause(building)
		}
		l.log.Error("the lab did not come up", "err", err)
		out.send(Report{Error: err.Error()})
		return errors.Join(err, l.close())
	}
	out.send(Report{Ready: &l.state})
	<-life.Done()
	l.log.Info("the lab ends", "cause", context.Cause(life))
	return l.close()
}

// newLab is a lab of which nothing is there yet.
func newLab(start Start, log *os.File, out *reporter) *lab {
	logger := slog.New(slog.NewTextHandler(log, nil))
	return &lab{
		log: logger, logFile: log, plan: start.Plan,
		state: State{Version: StateVersion, Plan: start.Plan, Bound: start.Bound, Hosts: map[string]owner.Identity{}},
		hosts: map[string]*hostProc{}, links: map[string]linkState{},
		guests: newGuests(&net.Dialer{}, hugepages.In(start.Plan.Dir)),
		tell: func(format string, args ...any) {
			text := fmt.Sprintf(format, args...)
			logger.Info(text)
			out.send(Report{Progress: text})
		},
	}
}

// reporter sends reports from several goroutines.
type reporter struct {
	mu  sync.Mutex
	out *json.Encoder
}

// send sends a report. A starter that is gone does not need it.
func (r *reporter) send(rep Report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.out.Encode(rep)
}
