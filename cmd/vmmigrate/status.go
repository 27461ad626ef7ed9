package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/journal"
)

// openJournal opens the journal for reading only.
func openJournal(ctx context.Context, g *globals) (*journal.Journal, error) {
	dir, err := g.state()
	if err != nil {
		return nil, err
	}
	return journal.OpenReadOnly(ctx, dir)
}

// openJournalToWrite is for those that leave requests in it.
func openJournalToWrite(ctx context.Context, g *globals) (*journal.Journal, error) {
	dir, err := g.state()
	if err != nil {
		return nil, err
	}
	return journal.Open(ctx, dir)
}

// printJSON writes one indented object.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

func newStatusCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "status [MIGRATION|DOMAIN]",
		Short: "Tell which migrations run or wait, and who owns their guests",
		Long: `Tell which migrations run or wait to be recovered, and who owns their guests.
With a migration's name, or a domain's, both hosts are asked, too, and what
recover would do is shown. Nothing is changed.

Exit codes with a name: 0 it runs or ended well, 4 the source owns the guest,
6 paused, 7 owner unknown, 1 other failure.`,
		Args: rangeArgs(0, 1, "at most one migration or domain"),
		RunE: func(cmd *cobra.Command, args []string) error {
			db, err := openJournal(cmd.Context(), g)
			if errors.Is(err, journal.ErrAbsent) && len(args) == 0 {
				return noneYet(cmd, g)
			}
			if err != nil {
				return err
			}
			defer db.Close()
			if len(args) == 1 {
				if w, err := db.FindWait(cmd.Context(), args[0]); err == nil {
					return showWait(cmd, g, w)
				}
				return inspect(cmd, g, db, args[0])
			}
			open, err := db.Unfinished(cmd.Context())
			if err != nil {
				return err
			}
			waits, err := db.Waits(cmd.Context())
			if err != nil {
				return err
			}
			if g.json() {
				return printJSON(cmd.OutOrStdout(), unfinished(open, waits))
			}
			return writeUnfinished(cmd.OutOrStdout(), open, waits)
		},
	}
}

// noneYet is what is shown where no migration was ever started.
func noneYet(cmd *cobra.Command, g *globals) error {
	if g.json() {
		return printJSON(cmd.OutOrStdout(), []migrate.Saved{})
	}
	return writeSaved(cmd.OutOrStdout(), nil, "no migration was started here yet")
}

// writeSaved prints a table of migrations.
func writeSaved(w io.Writer, list []migrate.Saved, none string) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, none)
		return err
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "MIGRATION\tDOMAIN\tSTARTED\tSTATE\tPHASE\tOWNER\tDONE")
	for _, s := range list {
		done := "-"
		if s.Progress != nil {
			done = fmt.Sprintf("%.0f %%", s.Progress.Percent)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.Entry.ID, s.Entry.Domain,
			s.Entry.Started.Local().Format(time.DateTime), stateOf(s), s.Last.Phase, s.Last.Owner, done)
	}
	return t.Flush()
}

// stateOf says in a word how a migration stands.
func stateOf(s migrate.Saved) string {
	switch {
	case s.Alive:
		return "running"
	case s.Last.Final:
		return s.Last.Outcome.String()
	case s.Last.Outcome != 0:
		return s.Last.Outcome.String() + ", open"
	}
	return "left behind"
}

// find takes a migration's name, or a domain's.
func find(ctx context.Context, db *journal.Journal, name string) (migrate.Saved, error) {
	id, err := db.Find(ctx, name)
	if err != nil {
		return migrate.Saved{}, err
	}
	return db.Load(ctx, id)
}

// standing is what status prints of one migration as JSON.
type standing struct {
	migrate.Saved
	Source *sideState   `json:"source_state"`
	Dest   *sideState   `json:"destination_state"`
	Plan   migrate.Plan `json:"plan"`
}

// sideState is what one host answers.
type sideState struct {
	State *migrate.GuestState `json:"state,omitempty"`
	Error string              `json:"error,omitempty"`
}

func sideOf(s *migrate.GuestState, err error) *sideState {
	out := &sideState{State: s}
	if err != nil {
		out.Error = err.Error()
	}
	return out
}

func (s *sideState) String() string {
	switch {
	case s.Error != "":
		return "does not answer: " + s.Error
	case s.State == nil:
		return "has no such guest"
	case s.State.Reason != "":
		return fmt.Sprintf("%s (%s)", s.State.Run, s.State.Reason)
	}
	return string(s.State.Run)
}

// inspect shows one migration and what both hosts say of it now.
func inspect(cmd *cobra.Command, g *globals, db *journal.Journal, name string) error {
	s, err := find(cmd.Context(), db, name)
	if err != nil {
		return err
	}
	c, err := newCoordinator(g, db, nil)
	if err != nil {
		return err
	}
	ins, err := c.Inspect(cmd.Context(), s.Entry.ID)
	if err != nil {
		return err
	}
	st := standing{Saved: ins.Saved, Source: sideOf(ins.Ends.Source, ins.Ends.SourceErr),
		Dest: sideOf(ins.Ends.Dest, ins.Ends.DestErr), Plan: ins.Plan}
	if g.json() {
		err = printJSON(cmd.OutOrStdout(), st)
	} else {
		err = st.write(cmd.OutOrStdout())
	}
	if err != nil {
		return err
	}
	if code := standingCode(ins); code != 0 {
		return codeError(code)
	}
	return nil
}

func (st standing) write(w io.Writer) error {
	e := st.Entry
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "migration\t%s (%s), started %s\n", e.ID, stateOf(st.Saved), e.Started.Local().Format(time.DateTime))
	fmt.Fprintf(t, "guest\t%s, %s engine, %s\n", e.Domain, e.Engine, e.Params.Strategy)
	fmt.Fprintf(t, "phase\t%s\n", st.Last.Phase)
	owner := st.Last.Owner
	if !st.Alive {
		owner = st.Plan.Owner
	}
	fmt.Fprintf(t, "owner\t%s\n", owner)
	fmt.Fprintf(t, "source\t%s: %s\n", e.Source, st.Source)
	fmt.Fprintf(t, "destination\t%s: %s\n", e.Dest, st.Dest)
	if st.Progress != nil && st.Alive {
		fmt.Fprintf(t, "progress\t%s\n", joinFigures(*st.Progress))
		for _, d := range st.Progress.Disks {
			fmt.Fprintf(t, "disk %s\t%s\n", d.Name, diskLine(d))
		}
	}
	if !st.Alive && !st.Last.Final {
		fmt.Fprintf(t, "recover\twould %s: %s\n", st.Plan.Kind, st.Plan.Why)
		for _, c := range st.Plan.Choices {
			fmt.Fprintf(t, "\tyour choice: vmmigrate recover %s --owner %s\n", e.ID, c)
		}
	}
	return t.Flush()
}

// standingCode is the exit code of status for one migration.
func standingCode(ins migrate.Inspection) int {
	last := ins.Saved.Last
	switch {
	case ins.Saved.Alive, last.Final && last.Outcome == migrate.OutcomeCompleted:
		return exitDone
	case last.Final && last.Owner == migrate.OwnerSource, !last.Final && ins.Plan.Owner == migrate.OwnerSource:
		return exitSource
	case !last.Final && ins.Plan.Owner == migrate.OwnerDestination:
		return exitPaused
	case last.Final:
		return exitFailure
	}
	return exitUnknown
}

func newHistoryCmd(g *globals) *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:   "history [MIGRATION|DOMAIN]",
		Short: "Show past migrations, or the report of one",
		Long: `Show past migrations, the newest first: all, or those of a domain. With a
migration's name, show the report that it left.`,
		Args: rangeArgs(0, 1, "at most one migration or domain"),
		Example: `  vmmigrate history
  vmmigrate history web
  vmmigrate history m-abcd2345 -o json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 1 {
				return usagef("--limit %d is not positive", limit)
			}
			db, err := openJournal(cmd.Context(), g)
			if errors.Is(err, journal.ErrAbsent) && len(args) == 0 {
				return noneYet(cmd, g)
			}
			if err != nil {
				return err
			}
			defer db.Close()
			if len(args) == 1 {
				s, err := db.Load(cmd.Context(), args[0])
				if err == nil {
					return showReport(cmd, g, s)
				}
				if !errors.Is(err, migrate.ErrNoMigration) {
					return err
				}
			}
			list, err := db.History(cmd.Context(), 0)
			if err != nil {
				return err
			}
			list = newest(list, args, limit)
			if g.json() {
				return printJSON(cmd.OutOrStdout(), append([]migrate.Saved{}, list...))
			}
			return writeSaved(cmd.OutOrStdout(), list, "no migration is in the journal")
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 20, "show the newest `N`")
	return cmd
}

// newest keeps the first limit migrations of the domain that args names, or of all.
func newest(list []migrate.Saved, args []string, limit int) []migrate.Saved {
	if len(args) == 1 {
		list = slices.DeleteFunc(list, func(s migrate.Saved) bool { return s.Entry.Domain != args[0] })
	}
	return list[:min(limit, len(list))]
}

// showReport prints the report that a migration left.
func showReport(cmd *cobra.Command, g *globals, s migrate.Saved) error {
	if s.Report == nil {
		return fmt.Errorf("migration %s has no report yet: it is %s; see: vmmigrate status %s", s.Entry.ID, stateOf(s), s.Entry.ID)
	}
	if g.json() {
		return printJSON(cmd.OutOrStdout(), s.Report)
	}
	_, err := fmt.Fprint(cmd.OutOrStdout(), s.Report.Text(reportWidth(cmd.OutOrStdout())))
	return err
}
