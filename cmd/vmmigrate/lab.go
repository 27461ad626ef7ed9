package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/vmmigrate/vmmigrate/testenv"
	"github.com/vmmigrate/vmmigrate/testenv/link"
)

// lab is what all commands of the lab share.
type lab struct {
	*globals
	name string
	dir  string
}

const labHelp = `The lab is several virtualization hosts on this machine, each with a libvirtd,
a network and disks of its own, in which guests can be started and migrated.
Nothing of this machine's own libvirt or network is touched, and "lab down"
leaves nothing behind. It needs root.`

func newLabCmd(g *globals) *cobra.Command {
	l := &lab{globals: g}
	cmd := &cobra.Command{
		Use:   "lab",
		Short: "Bring up hosts and guests on this machine to try migrations on",
		Long:  labHelp,
		Example: `  vmmigrate lab up --hosts 2 --link 1gbit
  vmmigrate lab guest web --workload hotset:size=128MiB,rate=20000 --disk 256MiB
  vmmigrate migrate -c "$(vmmigrate lab uri a)" web "$(vmmigrate lab uri b)" \
      --copy-storage-all --persistent --undefinesource
  vmmigrate lab verify web
  vmmigrate lab down`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("the lab has no command %q", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	fs := cmd.PersistentFlags()
	fs.StringVar(&l.name, "name", testenv.DefaultName, "`NAME` of the lab")
	fs.StringVar(&l.dir, "dir", "", "`DIR` for labs (default: $"+testenv.DirEnv+", then "+testenv.DefaultDir+")")
	cmd.AddCommand(
		newLabUpCmd(l), newLabGuestCmd(l), newLabAwaitCmd(l), newLabRemoveCmd(l), newLabURICmd(l), newLabExecCmd(l), newLabVerifyCmd(l), newLabWitnessCmd(l),
		newLabStatusCmd(l), newLabLinkCmd(l), newLabBlockCmd(l), newLabUnblockCmd(l), newLabMountCmd(l), newLabBreakCmd(l), newLabMendCmd(l), newLabCertsCmd(l), newLabDemoCmd(l), newLabDownCmd(l),
	)
	return cmd
}

// open finds the lab.
func (l *lab) open(ctx context.Context) (*testenv.Lab, error) {
	opened, err := testenv.Open(ctx, l.name, l.dir)
	if errors.Is(err, testenv.ErrNotUp) {
		return nil, fmt.Errorf("%w; bring it up with: vmmigrate lab up", err)
	}
	return opened, err
}

// host finds a host of the lab.
func (l *lab) host(ctx context.Context, name string) (*testenv.Host, error) {
	opened, err := l.open(ctx)
	if err != nil {
		return nil, err
	}
	return opened.Host(name)
}

// guest finds a guest of the lab.
func (l *lab) guest(ctx context.Context, name string) (*testenv.Guest, error) {
	opened, err := l.open(ctx)
	if err != nil {
		return nil, err
	}
	return opened.Guest(ctx, name)
}

// interruptible is a context that ends with Ctrl-C, so that what was begun is
// undone.
func interruptible(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
}

// show prints v as JSON with -o json, and otherwise what text writes.
func (l *lab) show(cmd *cobra.Command, v any, text func() error) error {
	if !l.json() {
		return text()
	}
	enc := json.NewEncoder(cmd.OutOrStdout())
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func newLabUpCmd(l *lab) *cobra.Command {
	var hosts int
	var spec string
	var bare bool
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Bring the lab up",
		Long: `Bring up hosts a, b, … and the networks between them. The lab stays up until
"lab down". Remains of a lab of the same name that was killed are removed
first.

RATE is unlimited, or a number of kbit, mbit or gbit a second; D a time such as
10ms; P a share of the packets such as 0.1%; N the seed of what is lost.`,
		Example: "  vmmigrate lab up --hosts 2 --link 100mbit,delay=10ms,loss=0.1%",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			parsed, err := link.ParseSpec(spec)
			if err != nil {
				return usageError{err}
			}
			if hosts < 1 || hosts > 16 {
				return usagef("--hosts %d: a lab has 1 to 16 hosts", hosts)
			}
			ctx, stop := interruptible(cmd)
			defer stop()
			return l.up(ctx, cmd, testenv.Config{Hosts: testenv.HostNames(hosts), Link: parsed, Bare: bare})
		},
	}
	cmd.Flags().IntVar(&hosts, "hosts", 2, "`NUMBER` of hosts, 1 to 16")
	cmd.Flags().StringVar(&spec, "link", "unlimited", "each host's link, `SPEC` being RATE[,delay=D][,loss=P][,seed=N]")
	cmd.Flags().BoolVar(&bare, "bare", false, "hosts without libvirt: guests are QEMUs that are reached by their monitors")
	return cmd
}

func (l *lab) up(ctx context.Context, cmd *cobra.Command, c testenv.Config) error {
	c.Name, c.Dir = l.name, l.dir
	c.Progress = func(step string) { fmt.Fprintln(l.stderr, step) }
	up, err := testenv.Up(ctx, c)
	if err != nil {
		return err
	}
	status, err := up.Status(ctx)
	if err != nil {
		return err
	}
	return l.show(cmd, status, func() error {
		for _, h := range up.Hosts() {
			fmt.Fprintf(cmd.OutOrStdout(), "%s  %s\n", h.Name(), h.URI())
		}
		return nil
	})
}

// downReport is what "lab down" prints as JSON.
type downReport struct {
	Lab     string `json:"lab"`
	Existed bool   `json:"existed"`
}

func newLabDownCmd(l *lab) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "End the lab and remove all of it",
		Long: `End every guest and host of the lab and remove its files, whatever state it is
in. It may be repeated.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			existed, err := testenv.Down(cmd.Context(), l.name, l.dir)
			if err != nil {
				return err
			}
			return l.show(cmd, downReport{l.name, existed}, func() error {
				text := "lab %s is down, nothing is left\n"
				if !existed {
					text = "there is no lab %s\n"
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), text, l.name)
				return err
			})
		},
	}
}
