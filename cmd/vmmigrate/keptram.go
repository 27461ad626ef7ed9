package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/vmmigrate/vmmigrate/migrate/engine/worker"
	keptram "github.com/vmmigrate/vmmigrate/migrate/engine/worker/kept"
	"github.com/vmmigrate/vmmigrate/testenv"
)

// keepDirEnv names the folder for copies of RAM, for agents that are started for one run.
const keepDirEnv = "VMMIGRATE_KEEP_DIR"

// keepFlags say where copies of guests' RAM are, and how much of it.
type keepFlags struct{ dir, limit string }

func (f *keepFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.dir, "keep-dir", "", "`DIR` with copies of guests' RAM (default: $"+keepDirEnv+", then "+worker.KeepDirs()[0]+" where libvirt is, else "+worker.KeepDirs()[1]+")")
}

// folder is where copies are.
func (f *keepFlags) folder() string {
	switch {
	case f.dir != "":
		return f.dir
	case os.Getenv(keepDirEnv) != "":
		return os.Getenv(keepDirEnv)
	}
	return worker.KeepDir()
}

// bytes is the limit; 0 is none.
func (f *keepFlags) bytes() (int64, error) {
	if f.limit == "" {
		return 0, nil
	}
	n, err := testenv.ParseSize(f.limit)
	if err != nil {
		return 0, usagef("--keep-limit: %v", err)
	}
	return n, nil
}

// args are the flags as another agent is given them.
func (f *keepFlags) args() []string {
	var out []string
	if f.dir != "" {
		out = append(out, "--keep-dir", f.dir)
	}
	if f.limit != "" {
		out = append(out, "--keep-limit", f.limit)
	}
	return out
}

const keptLong = `List the copies of guests' RAM that migrate --keep-copy has left on this host,
or drop some of them. A copy serves a guest that returns with --reuse: pages
that are still the same do not cross the link then. It holds the guest's memory,
with all the secrets in it, in files that only root can read, and stays until
the guest leaves again with --keep-copy or somebody drops it.

A copy is never trusted: the source is asked for a fingerprint of each page that
is taken from it. One that is old or damaged costs time and bytes, no more.

Exit codes: 0 done, 1 failure, 2 usage.`

func newKeptCmd(g *globals) *cobra.Command {
	f, drop, all := &keepFlags{}, []string(nil), false
	cmd := &cobra.Command{
		Use:   "kept",
		Short: "List or drop the copies of guests' RAM on this host",
		Long:  keptLong,
		Example: `  vmmigrate kept
  vmmigrate kept --drop 6a1f0c5e-3f0b-4c9a-9d55-3c1d2b7a9e10`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s := keptram.Store{Dir: f.folder()}
			if len(drop) > 0 || all {
				return dropKept(s, drop, all)
			}
			list, err := s.List()
			if err != nil {
				return err
			}
			if g.json() {
				return printJSON(cmd.OutOrStdout(), keptJSON(list))
			}
			return printKept(cmd.OutOrStdout(), s.Dir, list)
		},
	}
	f.register(cmd.Flags())
	cmd.Flags().StringArrayVar(&drop, "drop", nil, "drop the copy of the guest with this `UUID`; may be repeated")
	cmd.Flags().BoolVar(&all, "drop-all", false, "drop all copies")
	return cmd
}

func dropKept(s keptram.Store, drop []string, all bool) error {
	if all {
		list, err := s.List()
		if err != nil {
			return err
		}
		for _, i := range list {
			drop = append(drop, i.UUID)
		}
	}
	for _, uuid := range drop {
		if err := s.Drop(uuid); err != nil {
			return fmt.Errorf("drop the copy of the guest %s: %w", uuid, err)
		}
	}
	return nil
}

// keptCopy is a copy as JSON.
type keptCopy struct {
	UUID  string    `json:"uuid"`
	Guest string    `json:"guest"`
	Kept  time.Time `json:"kept"`
	Bytes int64     `json:"bytes"`
}

func keptJSON(list []keptram.Info) []keptCopy {
	out := make([]keptCopy, len(list))
	for i, c := range list {
		out[i] = keptCopy{c.UUID, c.Guest, c.Kept, c.Bytes()}
	}
	return out
}

func printKept(w io.Writer, dir string, list []keptram.Info) error {
	if len(list) == 0 {
		_, err := fmt.Fprintf(w, "no copies of RAM in %s\n", dir)
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "UUID\tGUEST\tKEPT\tMiB")
	for _, c := range list {
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\n", c.UUID, strconv.QuoteToGraphic(c.Guest), c.Kept.Local().Format(time.DateTime), c.Bytes()>>20)
	}
	return t.Flush()
}
