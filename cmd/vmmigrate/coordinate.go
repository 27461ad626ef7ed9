package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/check"
	"github.com/vmmigrate/vmmigrate/migrate/engine"
	"github.com/vmmigrate/vmmigrate/migrate/journal"
)

// order is what the watcher hands to the coordinator's process over its standard input.
type order struct {
	ID     string `json:"id"`
	Domain string `json:"domain"`
	Source string `json:"source"`
	Dest   string `json:"dest"`
	// Engine is the one that was asked for, or auto.
	Engine   migrate.EngineName `json:"engine"`
	Params   migrate.Params     `json:"params"`
	StateDir string             `json:"state_dir"`
	// Recover continues the migration ID of the journal, with the operator's choice if there is one.
	Recover bool           `json:"recover,omitempty"`
	Choice  migrate.Choice `json:"choice,omitempty"`
	// Report is the file the report goes to, if any: it is written although nobody watches any more.
	Report string `json:"report,omitempty"`
	// When it is to begin; Waited tells that it has waited already, in a process that is gone.
	When   moment `json:"when,omitzero"`
	Waited bool   `json:"waited,omitempty"`
}

// orderLimit bounds what is read of an order in bytes; destination XML is the largest part of it.
const orderLimit = 16 << 20

// linesFD is the descriptor on which the coordinator's process finds the pipe to its watcher.
const linesFD = 3

// newCoordinateCmd is the coordinator's process. Users do not call it; migrate and recover do.
func newCoordinateCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:    "coordinate",
		Short:  "Run one migration for a watcher (internal)",
		Hidden: true,
		Args:   noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := syscall.SetNonblock(linesFD, true); err != nil { // so that a write can have a deadline
				return usagef("coordinate is started by migrate and recover")
			}
			syscall.CloseOnExec(linesFD) // an agent that stays for its guest would keep the watcher
			out := newEmitter(os.NewFile(linesFD, "watcher"))
			defer out.close()
			raw, err := io.ReadAll(io.LimitReader(g.stdin, orderLimit))
			if err != nil {
				return err
			}
			var o order
			if err := json.Unmarshal(raw, &o); err != nil {
				return usagef("coordinate is started by migrate and recover: %v", err)
			}
			e := coordinate(cmd.Context(), o, out, g.log())
			out.emit(line{End: &e})
			return nil
		},
	}
}

// coordinate carries out an order. A first SIGINT or SIGTERM asks to cancel, which past the commit changes nothing: the
// coordinator never leaves a guest half-way of its own will.
func coordinate(ctx context.Context, o order, out *emitter, log *slog.Logger) end {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	db, err := journal.Open(ctx, o.StateDir)
	if err != nil {
		return endOf(migrate.Report{}, err)
	}
	defer db.Close()
	defer onSignal(func() { askCancel(ctx, db, o.ID, log, stop) })()
	park, err := migrate.ParkFrom(os.Getenv(migrate.ParkEnv))
	if err != nil {
		return endOf(migrate.Report{}, err)
	}
	c, err := migrate.New(migrate.Config{
		Journal: db, Log: log, Engine: engineNamed(log), Park: park, RemoveImages: engine.RemoveImages(connector(log)),
		Dial:     func(ctx context.Context, uri string) (migrate.Host, error) { return openHost(ctx, uri, log) },
		Progress: func(p migrate.Progress) { out.emit(line{Progress: &p}) },
	})
	if err != nil {
		return endOf(migrate.Report{}, err)
	}
	var report migrate.Report
	if o.Recover {
		report, err = c.Recover(ctx, o.ID, o.Choice)
	} else {
		report, err = migrateOne(ctx, c, db, o, out, log)
	}
	if werr := writeReport(o.Report, report); werr != nil {
		err = errors.Join(err, werr)
	}
	return endOf(report, err)
}

// askCancel asks to cancel by way of the journal, where it changes nothing past the commit. Where the request cannot be
// left there, which before anything was touched is the rule, the context ends instead.
func askCancel(ctx context.Context, db *journal.Journal, id string, log *slog.Logger, stop func()) {
	err := db.RequestCancel(ctx, id)
	if err == nil {
		return
	}
	log.Info("a signal's request to cancel", "migration", id, "err", err)
	if !errors.Is(err, journal.ErrTooLate) {
		stop()
	}
}

// onSignal calls f at the first SIGINT or SIGTERM; the returned function ends that and waits.
func onSignal(f func()) (release func()) {
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, syscall.SIGINT, syscall.SIGTERM)
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-sig:
				f()
			case <-quit:
				return
			}
		}
	}()
	return func() {
		signal.Stop(sig)
		close(quit)
		<-done
	}
}

func migrateOne(ctx context.Context, c *migrate.Coordinator, db *journal.Journal, o order, out *emitter, log *slog.Logger) (migrate.Report, error) {
	if o.When.waits() {
		release, err := waitFor(ctx, db, &o, out, log)
		defer release()
		if err != nil {
			r := blockedReport(o)
			if errors.Is(err, migrate.ErrCancelled) {
				r.Outcome = migrate.OutcomeCancelled
			}
			return r, err
		}
	}
	return migrateNow(ctx, c, db, o, out, log)
}

func migrateNow(ctx context.Context, c *migrate.Coordinator, db *journal.Journal, o order, out *emitter, log *slog.Logger) (migrate.Report, error) {
	if id := underWay(ctx, db, o.Domain, o.Source); id != "" { // a host that migrates a guest is slow to answer questions
		return blockedReport(o), &migrate.OpError{Op: "take the guest", Side: migrate.SideCoordinator, Owner: migrate.OwnerSource,
			Err: fmt.Errorf("%w: migration %s: %w", migrate.ErrBlocked, id, migrate.ErrBusy), Fix: fmt.Sprintf("vmmigrate watch %[1]s, or vmmigrate cancel %[1]s", id)}
	}
	hosts, res, params, err := look(ctx, o, log)
	defer hosts.close()
	if err != nil && !res.Blocked() {
		return blockedReport(o), err
	}
	found := checkedOf(res)
	if err := res.Err(); err != nil {
		if errors.Is(err, migrate.ErrBusy) && hosts.src != nil {
			if id := underWay(ctx, db, o.Domain, hosts.src.URI()); id != "" {
				err = fmt.Errorf("%w; migration %s moves it: vmmigrate watch %s", err, id, id)
				found.Text += fmt.Sprintf("migration %[1]s moves it: vmmigrate watch %[1]s\n", id)
			}
		}
		out.emit(line{Check: found})
		return blockedReport(o), err
	}
	out.emit(line{Check: found})
	eng, err := pickEngine(res.Engine, log)
	if err != nil {
		return blockedReport(o), err
	}
	reason := ""
	if o.Engine == migrate.EngineAuto {
		reason = fmt.Sprintf("%s: %s", res.Engine, res.EngineReason)
	}
	if res.Reason != "" && o.Params.Strategy == migrate.StrategyAuto {
		reason = join(reason, fmt.Sprintf("%s: %s", params.Strategy, res.Reason))
	}
	return c.Migrate(ctx, migrate.Request{ID: o.ID, Domain: o.Domain, Source: hosts.src, Dest: hosts.dst,
		Engine: eng, EngineReason: reason, Params: params, Predicted: foretell(ctx, db, o, hosts, res, log)})
}

// underWay is the migration that moves a source's domain at this moment by this journal; empty if there is none.
func underWay(ctx context.Context, db *journal.Journal, domain, source string) string {
	id, err := db.Find(ctx, domain)
	if err != nil {
		return ""
	}
	s, err := db.Load(ctx, id)
	if err != nil || !s.Alive || s.Entry.Source != source {
		return ""
	}
	return id
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}

// look connects and checks. A host that cannot be reached is a finding like any other.
func look(ctx context.Context, o order, log *slog.Logger) (pair, check.Result, migrate.Params, error) {
	hosts, side, err := openPair(ctx, o.Source, o.Dest, log)
	if err != nil {
		uri := o.Source
		if side == migrate.SideDestination {
			uri = o.Dest
		}
		res := check.DialResult(o.Domain, o.Source, o.Dest, check.DialFinding(uri, side, err))
		return pair{}, res, o.Params, res.Err()
	}
	res, err := check.Run(ctx, hosts.src, hosts.dst, o.Domain, o.Params,
		check.Options{Engine: o.Engine, NBD: nbdEngine(log) != nil, Images: engine.LookAtImages(connector(log))})
	if err != nil {
		hosts.close()
		return pair{}, res, o.Params, err
	}
	if res.Strategy == "" {
		return hosts, res, o.Params, nil
	}
	return hosts, res, res.Params, nil
}

func checkedOf(r check.Result) *checked {
	var js, text bytes.Buffer
	_ = errors.Join(r.WriteJSON(&js), r.WriteText(&text)) // a buffer takes everything
	return &checked{Text: text.String(), JSON: js.Bytes(), Blocked: r.Blocked(), Warnings: r.Count(check.Warning)}
}

// blockedReport is the report of a migration that check did not let begin.
func blockedReport(o order) migrate.Report {
	return migrate.Report{Schema: migrate.ReportSchema, Migration: o.ID, Domain: o.Domain, Source: o.Source, Dest: o.Dest,
		Engine: o.Engine, Strategy: o.Params.Strategy, Outcome: migrate.OutcomeFailed, Owner: migrate.OwnerSource}
}

// endOf turns the result into the last line. What went wrong stands in the report, too.
func endOf(r migrate.Report, err error) end {
	e := end{Code: migrate.ExitCode(r, err)}
	if err != nil {
		e.Error, e.Fix = err.Error(), migrate.FixOf(err)
		if r.Error == nil && r.Schema != "" {
			r.Error = &migrate.ReportError{Phase: migrate.PhaseChecking.String(), Cause: e.Error, Fix: e.Fix}
		}
	}
	if r.Schema != "" {
		e.Report = &r
	}
	return e
}

// writeReport writes the report to a file, whole or not at all.
func writeReport(file string, r migrate.Report) error {
	if file == "" || r.Schema == "" {
		return nil
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	tmp := file + ".new"
	if err := os.WriteFile(tmp, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if err := os.Rename(tmp, file); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}
