package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/journal"
)

func newMigrateCmd(g *globals) *cobra.Command {
	f, when := &migrateFlags{}, &whenFlags{}
	var progress, report string
	cmd := &cobra.Command{
		Use:   "migrate DOMAIN DESTURI [MIGRATEURI]",
		Short: "Move a running guest to another host",
		Long: `Move a running guest to another host.

DOMAIN is a name or UUID, for a bare QEMU also -; MIGRATEURI is the same as
--migrateuri.

Both ends are checked first; what forbids the migration is named with its fix,
and nothing is changed (exit 3). Until the commit every failure, and Ctrl-C,
leaves the guest running on the source. After it the destination owns the
guest: Ctrl-C then only leaves the watcher, and a broken link pauses the
migration until it is recovered.

With --when the migration waits for its moment, also when the terminal is
closed: status shows it, hurry begins it now, cancel gives it up, and recover
goes on waiting where its process is gone. Both ends are checked before and
after.

` + exitCodeHelp,
		Example: `  vmmigrate migrate web qemu+ssh://b/system --copy-storage-all
  vmmigrate migrate web qemu+ssh://b/system --copy-storage-all \
      --disk vda=/srv/images/web.qcow2
  vmmigrate migrate web qemu+tls://b/system --strategy precopy --parallel --tls
  vmmigrate migrate web qemu+ssh://b/system --strategy precopy \
      --max-downtime 50ms --max-duration 5m
  vmmigrate -c qemu+qmp:///run/a.qmp migrate - qemu+qmp:///run/b.qmp`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := f.order(g, args)
			if err != nil {
				return err
			}
			if f.dryRun {
				return runCheck(cmd, g, o)
			}
			if o.When, err = when.moment(time.Now()); err != nil {
				return err
			}
			if o.Report = report; report != "" {
				if o.Report, err = filepath.Abs(report); err != nil {
					return err
				}
			}
			return watchOrder(cmd, g, o, progress)
		},
	}
	f.register(cmd)
	when.register(cmd.Flags())
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "check and say what would be done, and change nothing")
	cmd.Flags().StringVar(&progress, "progress", "auto", "`MODE` of progress on standard error: auto, bar, log, json, none")
	cmd.Flags().StringVar(&report, "report", "", "write the report as JSON into this `FILE`, too")
	cmd.Flags().Bool("verbose", false, "accepted for virsh's sake; progress is always shown")
	return cmd
}

// order makes the order for a command line.
func (f *migrateFlags) order(g *globals, args []string) (order, error) {
	if err := f.args(args); err != nil {
		return order{}, err
	}
	p, err := f.params()
	if err != nil {
		return order{}, err
	}
	engine, err := askedEngine(f.engine, g.log())
	if err != nil {
		return order{}, err
	}
	state, err := g.state()
	if err != nil {
		return order{}, err
	}
	return order{ID: migrate.NewID(), Domain: f.domain, Source: g.connect, Dest: f.dest, Engine: engine, Params: p, StateDir: state}, nil
}

// watchOrder carries out an order and shows how it ends.
func watchOrder(cmd *cobra.Command, g *globals, o order, mode string) error {
	found, e, err := runOrder(cmd.Context(), g, o, mode)
	if err != nil {
		return err
	}
	return show(cmd, g, found, e)
}

// runOrder starts the coordinator's process and shows what it says until the end. The error says that the end is not
// known; what is known was shown.
func runOrder(ctx context.Context, g *globals, o order, mode string) (*checked, *end, error) {
	v, err := newView(mode, g.stderr)
	if err != nil {
		return nil, nil, err
	}
	began := time.Now()
	sig := make(chan os.Signal, 1) // before there is a coordinator that a Ctrl-C could leave alone
	signal.Notify(sig, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(sig)
	child, lines, err := startCoordinator(g, o)
	if err != nil {
		v.close()
		return nil, nil, err
	}
	w := &watcher{g: g, o: o, view: v, child: child}
	e, err := w.follow(ctx, lines, sig)
	v.close()
	if w.left {
		w.sayLeft()
		return nil, nil, codeError(exitPaused)
	}
	_ = child.Wait() // how it ended is in its last line, or in its absence
	if err != nil {
		if e = kept(ctx, o, began); e == nil && stillWaits(ctx, o) {
			printError(g.stderr, &migrate.OpError{Op: "wait for the moment to begin", Side: migrate.SideCoordinator, Owner: migrate.OwnerSource,
				Err: fmt.Errorf("%w (%v); nothing was done yet", err, child.ProcessState), Fix: "vmmigrate recover " + o.ID + ", or vmmigrate cancel " + o.ID})
			return nil, nil, codeError(exitSource)
		}
		if e == nil {
			return nil, nil, w.lost(err)
		}
	}
	return w.found, e, nil
}

// startCoordinator runs this same program as the coordinator, in a session of its own: closing the terminal or killing
// the watcher does not touch it.
func startCoordinator(g *globals, o order) (*exec.Cmd, io.ReadCloser, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	logs := filepath.Join(o.StateDir, "log")
	if err := os.MkdirAll(logs, 0o700); err != nil {
		return nil, nil, fmt.Errorf("make the state directory: %w; give --state-dir", err)
	}
	logFile, err := os.OpenFile(filepath.Join(logs, o.ID+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, nil, err
	}
	defer logFile.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer w.Close()
	args := []string{"coordinate"}
	if g.debug {
		args = append(args, "--debug")
	}
	child := exec.Command(self, args...)
	stdin, err := child.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	child.Stdout, child.Stderr, child.ExtraFiles = logFile, logFile, []*os.File{w}
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := child.Start(); err != nil {
		r.Close()
		return nil, nil, fmt.Errorf("start the coordinator: %w", err)
	}
	err = json.NewEncoder(stdin).Encode(o)
	if err := errors.Join(err, stdin.Close()); err != nil {
		r.Close()
		return nil, nil, fmt.Errorf("talk to the coordinator: %w", err)
	}
	return child, r, nil
}

// watcher follows one coordinator.
type watcher struct {
	g     *globals
	o     order
	view  view
	child *exec.Cmd

	found *checked
	owner migrate.Owner
	left  bool
	asked bool
}

// follow shows lines until the end, or until the user leaves after the commit.
func (w *watcher) follow(ctx context.Context, lines io.ReadCloser, sig <-chan os.Signal) (*end, error) {
	type result struct {
		end *end
		err error
	}
	msgs, over := make(chan line), make(chan result, 1)
	done := make(chan struct{})
	defer func() { // the reader ends with its pipe
		close(done)
		lines.Close()
		<-over
	}()
	go func() {
		e, err := readLines(lines, func(l line) {
			select {
			case msgs <- l:
			case <-done:
			}
		})
		over <- result{e, err}
		close(over)
	}()
	for {
		select {
		case l := <-msgs:
			w.take(l)
		case r := <-over:
			return r.end, r.err
		case <-sig:
			if w.interrupt() {
				return nil, nil
			}
		case <-ctx.Done():
			if w.interrupt() {
				return nil, nil
			}
			ctx = context.WithoutCancel(ctx)
		}
	}
}

func (w *watcher) take(l line) {
	switch {
	case l.Check != nil:
		w.found = l.Check
	case l.Wait != nil:
		w.view.waits(*l.Wait)
	case l.Progress != nil:
		w.owner = l.Progress.Owner
		w.view.progress(*l.Progress)
	}
}

// interrupt is Ctrl-C: before the commit it asks the coordinator to cancel, after it the watcher leaves. While the owner is
// unknown, as in a whole peer-to-peer migration, the coordinator can still try; a second Ctrl-C then leaves.
func (w *watcher) interrupt() (leave bool) {
	if w.owner == migrate.OwnerDestination || w.owner == migrate.OwnerUnknown && w.asked {
		w.left = true
		return true
	}
	switch {
	case w.asked:
	case w.owner == migrate.OwnerUnknown:
		fmt.Fprintln(w.g.stderr, "asking to cancel, which may come too late; interrupt again to leave")
	default:
		fmt.Fprintln(w.g.stderr, "cancelling: the guest stays on the source")
	}
	w.asked = true
	_ = w.child.Process.Signal(syscall.SIGINT)
	return false
}

func (w *watcher) sayLeft() {
	why := "The destination owns the guest already: the migration cannot be cancelled any more and"
	if w.owner != migrate.OwnerDestination {
		why = "Who owns the guest is not known at this moment; the migration"
	}
	fmt.Fprintf(w.g.stderr, `%[2]s goes on without you.
watch it:    vmmigrate watch %[1]s
its end:     vmmigrate history %[1]s
if it stops: vmmigrate recover %[1]s
`, w.o.ID, why)
}

// kept is the end that the journal has of a coordinator whose last line did not arrive: it does not wait for a watcher that
// was stopped or slow. Nil: it did not come to an end since began.
func kept(ctx context.Context, o order, began time.Time) *end {
	db, err := journal.OpenReadOnly(ctx, o.StateDir)
	if err != nil {
		return nil
	}
	defer db.Close()
	s, err := db.Load(ctx, o.ID)
	if err != nil || s.Alive || s.Last.Outcome == 0 || s.Last.At.Before(began) || s.Report == nil {
		return nil
	}
	e := &end{Report: s.Report, Code: savedCode(s)}
	if s.Report.Error != nil {
		e.Error, e.Fix = s.Report.Error.Cause, s.Report.Error.Fix
	}
	return e
}

// stillWaits tells that nothing of an order was done yet, though its process is gone.
func stillWaits(ctx context.Context, o order) bool {
	db, err := journal.OpenReadOnly(ctx, o.StateDir)
	if err != nil {
		return false
	}
	defer db.Close()
	_, err = db.FindWait(ctx, o.ID)
	return err == nil
}

// lost is what a coordinator that died leaves to say. Whether the guest runs has to be asked: the hosts undo or finish
// some of what was begun by themselves.
func (w *watcher) lost(err error) error {
	fmt.Fprintf(w.g.stderr, "vmmigrate: %v (%v)", err, w.child.ProcessState)
	if w.owner != 0 {
		fmt.Fprintf(w.g.stderr, "; by its last word the owner of the guest is: %s", w.owner)
	}
	fmt.Fprintf(w.g.stderr, "\nfix: vmmigrate status %[1]s shows both ends, vmmigrate recover %[1]s finishes the migration or undoes it\n", w.o.ID)
	return codeError(exitUnknown)
}

// show prints the end: the report on standard output, what went wrong on standard error.
func show(cmd *cobra.Command, g *globals, found *checked, e *end) error {
	out := cmd.OutOrStdout()
	if found != nil && (found.Blocked || found.Warnings > 0 && !g.json()) {
		fmt.Fprint(g.stderr, found.Text)
	}
	if e.Report != nil {
		if g.json() {
			enc := json.NewEncoder(out)
			enc.SetIndent("", "  ")
			enc.SetEscapeHTML(false)
			if err := enc.Encode(e.Report); err != nil {
				return err
			}
		} else if found == nil || !found.Blocked {
			fmt.Fprint(out, e.Report.Text(reportWidth(out)))
		}
	}
	if e.Error != "" && (found == nil || !found.Blocked) {
		fmt.Fprintf(g.stderr, "vmmigrate: %s\n", e.Error)
		if e.Fix != "" {
			fmt.Fprintf(g.stderr, "fix: %s\n", e.Fix)
		}
	}
	if e.Code != 0 {
		return codeError(e.Code)
	}
	return nil
}
