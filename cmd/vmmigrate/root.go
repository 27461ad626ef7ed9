package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// globals are the options that every command takes, and what main hands down.
type globals struct {
	connect  string
	output   string
	stateDir string
	debug    bool

	stdin  io.Reader
	stderr io.Writer
}

func (g *globals) json() bool { return g.output == "json" }

// log writes what a developer wants to know to standard error, with --debug only.
func (g *globals) log() *slog.Logger {
	if !g.debug {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(g.stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// state is the directory of the journal: --state-dir, $VMMIGRATE_STATE_DIR, /var/lib/vmmigrate for root, else the
// user's state directory.
func (g *globals) state() (string, error) {
	for _, dir := range []string{g.stateDir, os.Getenv("VMMIGRATE_STATE_DIR")} {
		if dir != "" {
			return filepath.Abs(dir)
		}
	}
	if os.Geteuid() == 0 {
		return "/var/lib/vmmigrate", nil
	}
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "vmmigrate"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("no directory for the journal: %w; give --state-dir", err)
	}
	return filepath.Join(home, ".local", "state", "vmmigrate"), nil
}

// noArgs refuses arguments as a mistake in usage.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%s takes no arguments, got %q", cmd.CommandPath(), args[0])
	}
	return nil
}

// rangeArgs wants between lo and hi arguments.
func rangeArgs(lo, hi int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < lo || len(args) > hi {
			return usagef("%s wants %s, got %d arguments", cmd.CommandPath(), what, len(args))
		}
		return nil
	}
}

func newRoot(stdin io.Reader, stdout, stderr io.Writer) *cobra.Command {
	g := &globals{stdin: stdin, stderr: stderr}
	root := &cobra.Command{
		Use:   "vmmigrate",
		Short: "Move running QEMU/KVM guests between hosts",
		Long: `vmmigrate moves running QEMU/KVM guests between hosts: it checks both ends
before it touches anything, decides while it copies, keeps a journal from which
a killed migration is finished or undone, and ends with a report.

A guest is named as libvirt names it; a host by its libvirt URI
(qemu:///system, qemu+ssh://host/system, qemu+tls://host/system, an alias of
libvirt.conf) or by the monitor socket of a bare QEMU
(qemu+qmp:///path/qmp.sock).

` + exitCodeHelp,
		Example: `  vmmigrate check   web qemu+ssh://b/system --copy-storage-all
  vmmigrate migrate web qemu+ssh://b/system --copy-storage-all
  vmmigrate status`,
		SilenceErrors: true, SilenceUsage: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if g.output != "text" && g.output != "json" {
				return usagef("-o %q is neither text nor json", g.output)
			}
			return nil
		},
	}
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	fs := root.PersistentFlags()
	fs.StringVarP(&g.connect, "connect", "c", "", "`URI` of the source (default: $LIBVIRT_DEFAULT_URI, then uri_default of libvirt.conf, then qemu:///system)")
	fs.StringVarP(&g.output, "output", "o", "text", "`FORMAT` of what is printed: text or json")
	fs.StringVar(&g.stateDir, "state-dir", "", "`DIR` of the journal (default: $VMMIGRATE_STATE_DIR, then /var/lib/vmmigrate for root and ~/.local/state/vmmigrate for others)")
	fs.BoolVar(&g.debug, "debug", false, "say on standard error what is done, for developers")
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), ".FlagUsages ", fmt.Sprintf(".FlagUsagesWrapped %d ", reportWidth(stdout))))
	root.AddCommand(commands(g)...)
	return root
}

// run is the whole program but for the process's exit.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot(stdin, stdout, stderr)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && strings.HasPrefix(err.Error(), "unknown command") { // cobra has no type for it
		err = usageError{err}
	}
	code := exitCode(err)
	var shown codeError
	if err != nil && !errors.As(err, &shown) {
		printError(stderr, err)
		if code == exitUsage {
			fmt.Fprintf(stderr, "see: %s --help\n", cmd.CommandPath())
		}
	}
	return code
}

// printError shows an error and its fix, each on a line.
func printError(w io.Writer, err error) {
	fmt.Fprintf(w, "vmmigrate: %v\n", err)
	if fix := migrate.FixOf(err); fix != "" {
		fmt.Fprintf(w, "fix: %s\n", fix)
	}
}
