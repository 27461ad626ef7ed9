package main

import (
	"errors"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/check"
)

func newCheckCmd(g *globals) *cobra.Command {
	f := &migrateFlags{}
	var host bool
	cmd := &cobra.Command{
		Use:   "check DOMAIN DESTURI [MIGRATEURI] | check --host",
		Short: "Say whether a migration would work; change nothing",
		Long: `Say whether a migration with these options would work: versions, machine type,
CPU, RAM, devices, disks and space, names and ports as the source sees them,
certificates, permissions, clocks. Each finding has a severity (blocker,
warning, unknown, info) and mostly a fix of one line; only a blocker stops a
migration. Nothing is changed on either host. The options are those of migrate.

With --host it says instead what the kernel of this host offers the engine nbd:
present, absent with the fix, or unknown, for the user that asks.

Exit codes: 0 nothing forbids the migration, 2 usage, 3 something does,
1 other failure.`,
		Example: `  vmmigrate check web qemu+ssh://b/system --copy-storage-all
  vmmigrate check web qemu+tls://b/system --strategy postcopy --tls -o json
  vmmigrate check --host`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if host {
				return runCheckHost(cmd, g, args)
			}
			o, err := f.order(g, args)
			if err != nil {
				return err
			}
			return runCheck(cmd, g, o)
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&host, "host", false, "say what this host's kernel offers; no domain")
	return cmd
}

// runCheckHost prints what this host offers, and is content with whatever that is.
func runCheckHost(cmd *cobra.Command, g *globals, args []string) error {
	if len(args) > 0 {
		return usagef("check --host takes no domain, got %q", strings.Join(args, " "))
	}
	table := check.AskHost()
	if g.json() {
		return table.WriteJSON(cmd.OutOrStdout())
	}
	return table.WriteText(cmd.OutOrStdout())
}

// runCheck prints what check finds.
func runCheck(cmd *cobra.Command, g *globals, o order) error {
	hosts, res, _, err := look(cmd.Context(), o, g.log())
	defer hosts.close()
	if err != nil && !errors.Is(err, migrate.ErrBlocked) {
		return err
	}
	out := cmd.OutOrStdout()
	if g.json() {
		err = res.WriteJSON(out)
	} else {
		err = res.WriteText(out)
	}
	if err != nil {
		return err
	}
	if res.Blocked() {
		return codeError(exitBlocked)
	}
	return nil
}

// reportWidth is the terminal's, between 80 and 120 columns; 80 elsewhere.
func reportWidth(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 80
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 80
	}
	return min(max(width, 80), 120)
}
