package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/journal"
)

func newHurryCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "hurry MIGRATION|DOMAIN",
		Short: "Begin a migration now that waits for its moment",
		Long: `Begin a migration now that waits for its moment (migrate --when). Its process
does so within a second; vmmigrate watch follows it. One whose process is gone
is for recover, or for the service that records (watch --daemon).`,
		Args: rangeArgs(1, 1, "a migration or a domain"),
		RunE: func(cmd *cobra.Command, args []string) error {
			db, err := openJournalToWrite(cmd.Context(), g)
			if err != nil {
				return err
			}
			defer db.Close()
			w, err := db.FindWait(cmd.Context(), args[0])
			if err == nil {
				err = db.Ask(cmd.Context(), w.ID, journal.RequestHurry)
			}
			if err == nil {
				fmt.Fprintf(cmd.OutOrStdout(), "migration %[1]s of %[2]s begins now: vmmigrate watch %[1]s\n", w.ID, w.Domain)
			}
			return err
		},
	}
}

// giveUp cancels a migration that has not begun, and waits until its process has heard of it.
func giveUp(cmd *cobra.Command, db *journal.Journal, w journal.Wait) error {
	ctx := cmd.Context()
	if err := db.Ask(ctx, w.ID, journal.RequestCancel); err != nil {
		return err
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		now, err := db.FindWait(ctx, w.ID)
		if errors.Is(err, migrate.ErrNoMigration) {
			break
		}
		if err != nil {
			return err
		}
		if !now.Alive { // it died before it heard
			if err := db.Ask(ctx, w.ID, journal.RequestCancel); err != nil && !errors.Is(err, migrate.ErrNoMigration) {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("left; migration %s was asked to cancel", w.ID)
		}
	}
	if s, err := db.Load(ctx, w.ID); err == nil { // it has just begun
		return fmt.Errorf("migration %s has begun: vmmigrate cancel %s", w.ID, s.Entry.ID)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "migration %s is cancelled; owner: %s\n", w.ID, migrate.OwnerSource)
	return nil
}

// followWait shows a wait until it has become a migration, and gives that one's name. What does not wait is left as it is.
func followWait(ctx context.Context, db *journal.Journal, name string, v view) (string, error) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	var last journal.Wait
	for {
		w, err := db.FindWait(ctx, name)
		switch {
		case errors.Is(err, migrate.ErrNoMigration):
			return name, begun(ctx, db, last.ID)
		case err != nil:
			return "", err
		case !w.Alive:
			return "", &migrate.OpError{Op: "watch migration " + w.ID, Side: migrate.SideCoordinator, Owner: migrate.OwnerSource,
				Err: errors.New("it waits for its moment, and its process is gone"), Fix: "vmmigrate recover " + w.ID + ", or vmmigrate cancel " + w.ID}
		}
		name = w.ID
		if !w.Start.Equal(last.Start) || w.Why != last.Why {
			v.waits(w)
		}
		last = w
		select {
		case <-tick.C:
		case <-ctx.Done():
			return "", fmt.Errorf("left; migration %s waits on", w.ID)
		}
	}
}

// begun tells of a wait that is over whether a migration has come of it.
func begun(ctx context.Context, db *journal.Journal, id string) error {
	if id == "" {
		return nil // there was none
	}
	_, err := db.Load(ctx, id)
	if errors.Is(err, migrate.ErrNoMigration) {
		return &migrate.OpError{Op: "watch migration " + id, Side: migrate.SideCoordinator, Owner: migrate.OwnerSource,
			Err: fmt.Errorf("%w before it began", migrate.ErrCancelled)}
	}
	return err
}

// waitOn takes up a wait whose process is gone.
func waitOn(cmd *cobra.Command, g *globals, w journal.Wait, progress, report string) error {
	o, err := waitedOrder(g, w)
	if err != nil {
		return err
	}
	if report != "" {
		o.Report = report
	}
	return watchOrder(cmd, g, o, progress)
}

// waitedOrder is the order of a wait that is taken up.
func waitedOrder(g *globals, w journal.Wait) (o order, err error) {
	if err := json.Unmarshal(w.Order, &o); err != nil {
		return o, migrate.Fail("go on waiting with migration "+w.ID, migrate.SideCoordinator, fmt.Errorf("its order: %w: %w", journal.ErrDamaged, err), "vmmigrate cancel "+w.ID)
	}
	o.Waited = true
	o.StateDir, err = g.state()
	return o, err
}

// unfinishedItem is what status prints of each as JSON: of one that waits there is nothing but the wait and who it is.
type unfinishedItem struct {
	migrate.Saved
	Wait *journal.Wait `json:"wait,omitempty"`
}

func unfinished(open []migrate.Saved, waits []journal.Wait) []unfinishedItem {
	out := []unfinishedItem{}
	for _, w := range waits {
		out = append(out, unfinishedItem{Saved: savedWait(w), Wait: &w})
	}
	for _, s := range open {
		out = append(out, unfinishedItem{Saved: s})
	}
	return out
}

// savedWait is a wait in the words of a migration: the source has the guest, and nothing was done.
func savedWait(w journal.Wait) migrate.Saved {
	return migrate.Saved{Entry: migrate.Entry{ID: w.ID, Domain: w.Domain, Source: w.Source, Dest: w.Dest, Started: w.Since},
		Last: migrate.Record{At: w.Since, Phase: migrate.PhaseChecking, Owner: migrate.OwnerSource}, Alive: w.Alive, CancelAsked: w.CancelAsked}
}

func writeUnfinished(out io.Writer, open []migrate.Saved, waits []journal.Wait) error {
	for _, w := range waits {
		if _, err := fmt.Fprintln(out, waitLine(w, time.Now())); err != nil {
			return err
		}
	}
	if len(open) == 0 && len(waits) > 0 {
		return nil
	}
	if len(waits) > 0 {
		fmt.Fprintln(out)
	}
	return writeSaved(out, open, "no migration runs or waits")
}

func waitLine(w journal.Wait, now time.Time) string {
	if !w.Alive {
		return fmt.Sprintf("%[1]s of %[2]s waited for its moment, and its process is gone: vmmigrate recover %[1]s, or cancel", w.ID, w.Domain)
	}
	return fmt.Sprintf("%s of %s waits %s", w.ID, w.Domain, waitText(w, now))
}

func showWait(cmd *cobra.Command, g *globals, w journal.Wait) error {
	if g.json() {
		return printJSON(cmd.OutOrStdout(), unfinished(nil, []journal.Wait{w})[0])
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), waitLine(w, time.Now()))
	return err
}
