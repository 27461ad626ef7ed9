package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/journal"
)

// newCoordinator makes a coordinator over the journal.
func newCoordinator(g *globals, db *journal.Journal, progress func(migrate.Progress)) (*migrate.Coordinator, error) {
	log := g.log()
	return migrate.New(migrate.Config{
		Journal: db, Log: log, Engine: engineNamed(log), Progress: progress,
		Dial: func(ctx context.Context, uri string) (migrate.Host, error) { return openHost(ctx, uri, log) },
	})
}

func newCancelCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "cancel MIGRATION|DOMAIN",
		Short: "Cancel a running migration; the guest stays on the source",
		Long: `Ask the coordinator of a running migration to cancel it, and wait for its end.
It does so until the commit; after it the destination owns the guest and the
request changes nothing. A migration whose coordinator is gone is for recover.`,
		Args: rangeArgs(1, 1, "a migration or a domain"),
		RunE: func(cmd *cobra.Command, args []string) error {
			db, err := openJournalToWrite(cmd.Context(), g)
			if err != nil {
				return err
			}
			defer db.Close()
			if w, err := db.FindWait(cmd.Context(), args[0]); err == nil {
				return giveUp(cmd, db, w)
			}
			s, err := find(cmd.Context(), db, args[0])
			if err != nil {
				return err
			}
			if err := db.RequestCancel(cmd.Context(), s.Entry.ID); err != nil {
				return err
			}
			end, err := follow(cmd.Context(), db, s.Entry.ID, noView{})
			if err != nil {
				return err
			}
			return cancelled(cmd.OutOrStdout(), end)
		},
	}
}

// cancelled tells what came of a request to cancel. Only a migration that was cancelled is a success.
func cancelled(out io.Writer, s migrate.Saved) error {
	switch s.Last.Outcome {
	case 0:
		return &migrate.OpError{Op: "cancel migration " + s.Entry.ID, Side: migrate.SideCoordinator, Owner: s.Last.Owner,
			Err: fmt.Errorf("%w: its coordinator is gone before it ended", migrate.ErrOwnerUnknown), Fix: "vmmigrate recover " + s.Entry.ID}
	case migrate.OutcomeCompleted:
		return fmt.Errorf("too late: migration %s completed", s.Entry.ID)
	}
	fmt.Fprintf(out, "migration %s is %s; owner: %s\n", s.Entry.ID, s.Last.Outcome, s.Last.Owner)
	if s.Last.Outcome == migrate.OutcomeCancelled && s.Last.Owner == migrate.OwnerSource {
		return nil
	}
	return codeError(savedCode(s))
}

// watched prints how a migration stands when nobody drives it any more.
func watched(cmd *cobra.Command, g *globals, s migrate.Saved) error {
	if s.Report == nil {
		return &migrate.OpError{Op: "watch migration " + s.Entry.ID, Side: migrate.SideCoordinator, Owner: s.Last.Owner,
			Err: fmt.Errorf("%w: its coordinator is gone", migrate.ErrOwnerUnknown), Fix: "vmmigrate recover " + s.Entry.ID}
	}
	if err := showReport(cmd, g, s); err != nil {
		return err
	}
	if code := savedCode(s); code != 0 {
		return codeError(code)
	}
	return nil
}

// savedCode is the exit code of a migration that ended in another process.
func savedCode(s migrate.Saved) int {
	switch {
	case s.Last.Outcome == migrate.OutcomeCompleted:
		return exitDone
	case s.Last.Outcome == migrate.OutcomePaused:
		return exitPaused
	case s.Last.Owner == migrate.OwnerSource && !s.Last.Final:
		return exitFailure // it is not undone: whether the source runs is not said
	case s.Last.Owner == migrate.OwnerSource && s.Last.Reason == migrate.ReasonTimeLimit:
		return exitLimit
	case s.Last.Owner == migrate.OwnerSource:
		return exitSource
	case s.Last.Owner == migrate.OwnerUnknown:
		return exitUnknown
	}
	return exitFailure
}

// watchEvery is how often the journal is read for another process's progress.
const watchEvery = 250 * time.Millisecond

// follow shows a migration's progress until no coordinator drives it.
func follow(ctx context.Context, db *journal.Journal, id string, v view) (migrate.Saved, error) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	var last time.Time
	for {
		s, err := db.Load(ctx, id)
		if err != nil {
			return s, err
		}
		if s.Progress != nil && s.Progress.Time.After(last) {
			last = s.Progress.Time
			v.progress(*s.Progress)
		}
		if !s.Alive {
			return s, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return s, fmt.Errorf("left; migration %s goes on", id)
		}
	}
}

func newRecoverCmd(g *globals) *cobra.Command {
	var progress, owner, report string
	cmd := &cobra.Command{
		Use:   "recover MIGRATION|DOMAIN",
		Short: "Finish or undo what a dead coordinator or a broken link left",
		Long: `Ask both hosts and finish the migration, or undo it, whichever is safe: before
the commit the guest stays on the source; after it the destination gets the
rest of its RAM over a new link, or the source is released. Where the hosts'
answers allow no decision nobody is resumed and both ends are shown (exit 7);
--owner then says who is to have the guest. Of a migration that has ended it
prints the report; one that waited for its moment (--when) waits on.

` + exitCodeHelp,
		Args: rangeArgs(1, 1, "a migration or a domain"),
		RunE: func(cmd *cobra.Command, args []string) error {
			choice := migrate.Choice(owner)
			if choice != migrate.ChoiceNone && choice != migrate.ChoiceSource && choice != migrate.ChoiceDestination {
				return usagef("--owner %q is neither source nor destination", owner)
			}
			db, err := openJournal(cmd.Context(), g)
			if err != nil {
				return err
			}
			defer db.Close()
			if w, err := db.FindWait(cmd.Context(), args[0]); err == nil {
				return waitOn(cmd, g, w, progress, report)
			}
			s, err := find(cmd.Context(), db, args[0])
			if err != nil {
				return err
			}
			state, err := g.state()
			if err != nil {
				return err
			}
			o := order{ID: s.Entry.ID, Domain: s.Entry.Domain, StateDir: state, Recover: true, Choice: choice, Report: report}
			return watchOrder(cmd, g, o, progress)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&progress, "progress", "auto", "`MODE` of progress on standard error: auto, bar, log, json, none")
	fs.StringVar(&owner, "owner", "", "`SIDE` that is to have the guest where the hosts' answers leave it to you: source or destination")
	fs.StringVar(&report, "report", "", "write the report as JSON into this `FILE`, too")
	return cmd
}
