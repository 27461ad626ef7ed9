package main

import (
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmmigrate/vmmigrate/testenv"
	"github.com/vmmigrate/vmmigrate/testenv/link"
)

// hostURIs is what "lab uri" prints as JSON.
type hostURIs struct {
	Host string `json:"host"`
	// URI works on this machine; TLS and TCP work inside the lab.
	URI string `json:"uri"`
	TLS string `json:"tls_uri"`
	TCP string `json:"tcp_uri"`
}

func newLabURICmd(l *lab) *cobra.Command {
	return &cobra.Command{
		Use:   "uri HOST",
		Short: "Print the libvirt URI of a host",
		Long: `Print the URI at which libvirt clients on this machine reach the host. Between
hosts of the lab, qemu+tls://HOST/system and qemu+tcp://HOST/system work too.`,
		Example: `  virsh -c "$(vmmigrate lab uri a)" list`,
		Args:    rangeArgs(1, 1, "HOST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := l.host(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return l.show(cmd, hostURIs{h.Name(), h.URI(), h.TLSURI(), h.TCPURI()}, func() error {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), h.URI())
				return err
			})
		},
	}
}

func newLabExecCmd(l *lab) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "exec HOST -- CMD [ARG...]",
		Short: "Run a command inside a host",
		Long: `Run a command with the host's network, mounts, processes and host name. It has
your environment, LIBVIRT_DEFAULT_URI included; the host's own libvirt is
qemu:///system there. The exit code is that of the command.`,
		Example: `  vmmigrate lab exec a -- virsh -c qemu:///system list --all
  vmmigrate lab exec a -- virsh -c qemu+tls://b/system list --all`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(execArgs(args)) < 2 {
				return usagef("lab exec wants HOST -- CMD")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			args = execArgs(args)
			h, err := l.host(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			stdio := testenv.Stdio{In: l.stdin, Out: cmd.OutOrStdout(), Err: l.stderr}
			err = h.Exec(cmd.Context(), stdio, args[1], args[2:]...)
			var exit *exec.ExitError
			if errors.As(err, &exit) && exit.ExitCode() > 0 {
				return codeError(exit.ExitCode())
			}
			return err
		},
	}
	cmd.Flags().SetInterspersed(false)
	return cmd
}

// execArgs takes out the -- after HOST, which ends the flags only for a reader: they
// end at HOST already, so that the command's own are left alone.
func execArgs(args []string) []string {
	if len(args) > 1 && args[1] == "--" {
		return append([]string{args[0]}, args[2:]...)
	}
	return args
}

func newLabLinkCmd(l *lab) *cobra.Command {
	return &cobra.Command{
		Use:   "link HOST down|up|SPEC",
		Short: "Cut, mend or shape the link of a host",
		Long: `Pull the cable between the host and the migration network (down), put it back
(up), or give the link another rate, delay and loss, SPEC being
RATE[,delay=D][,loss=P][,seed=N]. Delay and loss apply to what the host sends.`,
		Example: "  vmmigrate lab link a down\n  vmmigrate lab link a 100mbit,delay=10ms,loss=0.1%",
		Args:    rangeArgs(2, 2, "HOST and down, up or a link spec"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var spec link.Spec
			if args[1] != "down" && args[1] != "up" {
				var err error
				if spec, err = link.ParseSpec(args[1]); err != nil {
					return usageError{fmt.Errorf("%w; or say down or up", err)}
				}
			}
			h, err := l.host(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			switch args[1] {
			case "down":
				return h.Link().Cut(cmd.Context())
			case "up":
				return h.Link().Mend(cmd.Context())
			}
			return h.Link().Shape(cmd.Context(), spec)
		},
	}
}

// parsePorts reads "49152" or "49152-49215".
func parsePorts(text string) (testenv.Ports, error) {
	low, high, found := strings.Cut(text, "-")
	if !found {
		high = low
	}
	from, err1 := strconv.ParseUint(low, 10, 16)
	to, err2 := strconv.ParseUint(high, 10, 16)
	if err1 != nil || err2 != nil || from == 0 || from > to {
		return testenv.Ports{}, usagef("ports %q: write them as 49152 or 49152-49215", text)
	}
	return testenv.Ports{Low: uint16(from), High: uint16(to)}, nil
}

func newLabBlockCmd(l *lab) *cobra.Command {
	return &cobra.Command{
		Use:   "block HOST PORTS",
		Short: "Drop what other hosts send to ports of a host",
		Long: `Drop what comes in for these TCP and UDP ports, without an answer, as a
firewall does. Connections that exist freeze.`,
		Example: "  vmmigrate lab block b 49152-49215",
		Args:    rangeArgs(2, 2, "HOST and PORTS"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return l.withPorts(cmd, args, (*testenv.Host).BlockPorts)
		},
	}
}

func newLabUnblockCmd(l *lab) *cobra.Command {
	return &cobra.Command{
		Use:   "unblock HOST PORTS",
		Short: "Undo block for the same ports",
		Args:  rangeArgs(2, 2, "HOST and PORTS"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return l.withPorts(cmd, args, (*testenv.Host).UnblockPorts)
		},
	}
}

func newLabCertsCmd(l *lab) *cobra.Command {
	var valid time.Duration
	cmd := &cobra.Command{
		Use:   "certs HOST",
		Short: "Replace the certificates of a host",
		Long: `Issue new certificates for the host and put them where its libvirt and QEMU
look. libvirtd is restarted, since it reads its own only when it starts; guests
go on.`,
		Example: `  vmmigrate lab certs b --valid -1h   # they have expired an hour ago
  vmmigrate lab certs b`,
		Args: rangeArgs(1, 1, "HOST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := l.host(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := h.IssueCertificates(time.Now().Add(valid)); err != nil {
				return err
			}
			return h.RestartLibvirtd(cmd.Context())
		},
	}
	cmd.Flags().DurationVar(&valid, "valid", 30*24*time.Hour, "`TIME` for which they are valid; negative: since when they are not any more")
	return cmd
}

func newLabStatusCmd(l *lab) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show hosts, links and guests",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			opened, err := l.open(cmd.Context())
			if err != nil {
				return err
			}
			s, err := opened.Status(cmd.Context())
			if err != nil {
				return err
			}
			return l.show(cmd, s, func() error { return printLab(cmd, s) })
		},
	}
}

// printLab writes a lab's status for people.
func printLab(cmd *cobra.Command, s testenv.Status) error {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "lab %s in %s\n\n", s.Name, s.Dir)
	fmt.Fprintln(w, "HOST\tADDRESS\tLIBVIRTD\tLINK\tBLOCKED\tSENT\tRECEIVED")
	for _, h := range s.Hosts {
		state := h.Link
		if h.Cut {
			state += " (cut)"
		}
		var blocked []string
		for _, p := range h.Blocked {
			blocked = append(blocked, p.String())
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%d\n", h.Name, h.Address, h.Libvirtd, state, strings.Join(blocked, ","),
			h.Counters.SentBytes, h.Counters.ReceivedBytes)
	}
	if len(s.Guests) > 0 {
		fmt.Fprintln(w, "\nGUEST\tADDRESS\tMEMORY\tDISKS\tWORKLOAD\tWHERE")
	}
	for _, g := range s.Guests {
		var where []string
		for _, p := range g.Where {
			if p.State != testenv.StateAbsent {
				where = append(where, p.Host+": "+p.State)
			}
		}
		disks := "none"
		for i, d := range g.Config.Disks {
			if i == 0 {
				disks = ""
			} else {
				disks += ", "
			}
			disks += fmt.Sprintf("%d MiB", d.Size>>20)
		}
		fmt.Fprintf(w, "%s\t%s\t%d MiB\t%s\t%s\t%s\n", g.Name, g.Address, g.Config.Memory>>20, disks,
			g.Config.Workload, strings.Join(where, ", "))
	}
	return w.Flush()
}
