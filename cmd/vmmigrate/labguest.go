package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmmigrate/vmmigrate/testenv"
	"github.com/vmmigrate/vmmigrate/testenv/oracle"
)

// verifyPatience bounds how long a guest may take to check itself.
const verifyPatience = 2 * time.Minute

// startPatience bounds how long a guest may take to boot.
const startPatience = 3 * time.Minute

func (l *lab) withPorts(cmd *cobra.Command, args []string, do func(*testenv.Host, context.Context, uint16, uint16) error) error {
	ports, err := parsePorts(args[1])
	if err != nil {
		return err
	}
	h, err := l.host(cmd.Context(), args[0])
	if err != nil {
		return err
	}
	return do(h, cmd.Context(), ports.Low, ports.High)
}

func newLabGuestCmd(l *lab) *cobra.Command {
	var c testenv.GuestConfig
	var memory, pages string
	var disks []string
	cmd := &cobra.Command{
		Use:   "guest NAME",
		Short: "Start a guest",
		Long: `Start a Linux guest that does the work it is told to and keeps books about it,
so that "lab verify" can tell whether a migration lost anything. It returns
when the guest answers on the network. A SIZE is in bytes, or has its unit:
512MiB, 1GiB.

A WORK is KIND or KIND:key=value,…

    idle        nothing
    uniform     any page, evenly
    hotset      a few pages most of the time      hot=0.1 bias=0.9
    sequential  page after page, round and round
    cycle       phases, each evenly, repeated     hot=1 phases=5000@10s/0@10s
    blockio     disk blocks, evenly               rate=200
    mixed       a hot set and disk blocks         hot=0.1 bias=0.9 writes=50

These are the defaults, besides size=128MiB and rate=5000. size is what it
writes to, for blockio of each disk; rate is in pages or blocks a second, or
max; hot is the share of the pages that gets the share bias of the writes; a
phase is RATE@LENGTH; writes are blocks a second.`,
		Example: `  vmmigrate lab guest web --disk 256MiB
  vmmigrate lab guest db --memory 1GiB --workload hotset:size=512MiB,rate=20000
  vmmigrate lab guest log --disk 64MiB --workload mixed:rate=2000,writes=20
  vmmigrate lab guest files --disk 1GiB,format=qcow2,used=300MiB \
      --disk 256MiB --workload blockio`,
		Args: rangeArgs(1, 1, "NAME"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			c.Name = args[0]
			if c.Memory, err = testenv.ParseSize(memory); err != nil {
				return usageError{fmt.Errorf("--memory: %w", err)}
			}
			if c.PageSize, err = testenv.ParseSize(pages); err != nil {
				return usageError{fmt.Errorf("--pages: %w", err)}
			}
			if c.Disks, err = parseDisks(disks); err != nil {
				return usageError{fmt.Errorf("--disk: %w", err)}
			}
			return l.startGuest(cmd, c)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&c.Host, "host", "", "`HOST` to start it on (default: the first)")
	fs.StringVar(&memory, "memory", "512MiB", "`SIZE` of its RAM")
	fs.IntVar(&c.CPUs, "cpus", 1, "`NUMBER` of processors")
	fs.StringVar(&c.Backing, "backing", testenv.BackingPrivate, "`BACKING` of its RAM: private, or shared, which other processes can map")
	fs.StringVar(&pages, "pages", "4KiB", "`SIZE` of the pages behind its RAM: 4KiB, or 2MiB, which the lab borrows from this machine")
	fs.IntVar(&c.NUMA, "numa", 0, "`NUMBER` of NUMA nodes, each with a RAM block of its own (default: one block and no nodes)")
	fs.StringArrayVar(&disks, "disk", nil, "`SIZE[,format=F][,used=SIZE]` of a disk: its format, and how much of it is full when the guest starts; may be repeated")
	fs.StringVar(&c.DiskFormat, "disk-format", testenv.FormatRaw, "`FORMAT` of the disks that name none: raw or qcow2")
	fs.StringVar(&c.Workload, "workload", "idle", "the `WORK` it does")
	fs.StringVar(&c.Accel, "accel", testenv.AccelAuto, "`ACCEL` that runs it: tcg, kvm, or auto for kvm where it works")
	fs.Uint64Var(&c.Seed, "seed", 1, "`SEED` of what it writes")
	fs.BoolVar(&c.Monitor, "monitor", false, "give it a second QMP socket; with shared backing it always has one")
	return cmd
}

// startedGuest is what "lab guest" prints as JSON.
type startedGuest struct {
	Name    string              `json:"name"`
	Host    string              `json:"host"`
	URI     string              `json:"uri"`
	Address string              `json:"address"`
	MAC     string              `json:"mac"`
	BootMS  int64               `json:"boot_ms"`
	Config  testenv.GuestConfig `json:"config"`
}

func (l *lab) startGuest(cmd *cobra.Command, c testenv.GuestConfig) error {
	ctx, stop := interruptible(cmd)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	opened, err := l.open(ctx)
	if err != nil {
		return err
	}
	begin := time.Now()
	g, err := opened.StartGuest(ctx, c)
	if err != nil {
		return err
	}
	host, err := opened.Host(g.Config().Host)
	if err != nil {
		return err
	}
	s := startedGuest{
		Name: g.Name(), Host: host.Name(), URI: g.URI(host), Address: g.Address().String(), MAC: g.MAC(),
		BootMS: time.Since(begin).Milliseconds(), Config: g.Config(),
	}
	return l.show(cmd, s, func() error {
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "guest %s runs on host %s at %s, %s after its start\n",
			s.Name, s.Host, s.Address, time.Since(begin).Round(time.Millisecond))
		return err
	})
}

// awaited is what "lab await" prints as JSON.
type awaited struct {
	Name string `json:"name"`
	Host string `json:"host"`
	URI  string `json:"uri"`
	// MigrateURI is where the source reaches it.
	MigrateURI string `json:"migrate_uri"`
}

func newLabAwaitCmd(l *lab) *cobra.Command {
	return &cobra.Command{
		Use:   "await NAME HOST",
		Short: "In a bare lab, start the QEMU that a guest migrates to",
		Long: `Start a QEMU on the host that waits for the guest, which only guests of a lab
without libvirt need, and print its URI.`,
		Example: `  vmmigrate lab up --bare
  vmmigrate lab guest web --backing shared
  vmmigrate lab await web b`,
		Args: rangeArgs(2, 2, "NAME and HOST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			g, err := l.guest(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			h, err := l.host(cmd.Context(), args[1])
			if err != nil {
				return err
			}
			if err := g.Await(cmd.Context(), h); err != nil {
				return err
			}
			a := awaited{g.Name(), h.Name(), g.URI(h), "tcp://" + h.Address().String()}
			return l.show(cmd, a, func() error {
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s --migrateuri %s\n", a.URI, a.MigrateURI)
				return err
			})
		},
	}
}

func newLabRemoveCmd(l *lab) *cobra.Command {
	return &cobra.Command{
		Use:   "remove NAME",
		Short: "End a guest and remove its domain and disks from every host",
		Args:  rangeArgs(1, 1, "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			g, err := l.guest(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return g.Remove(cmd.Context())
		},
	}
}

func newLabVerifyCmd(l *lab) *cobra.Command {
	return &cobra.Command{
		Use:   "verify NAME",
		Short: "Have a guest check its memory, disk and clock",
		Long: `Ask the guest's own oracle, and hold its answer against what was seen of it
from outside and against the hosts. It may be asked at any time.

The exit code is 0 only if every page, disk block and tick is as it should be
and exactly one host runs the guest.`,
		Args: rangeArgs(1, 1, "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := context.WithTimeout(cmd.Context(), verifyPatience)
			defer stop()
			g, err := l.guest(ctx, args[0])
			if err != nil {
				return err
			}
			v, err := g.Verify(ctx)
			if err != nil {
				return err
			}
			if err := l.show(cmd, v, func() error { return printVerdict(cmd.OutOrStdout(), v) }); err != nil {
				return err
			}
			if !v.OK {
				return codeError(exitFailure)
			}
			return nil
		},
	}
}

// printVerdict writes a verdict for people.
func printVerdict(out io.Writer, v testenv.Verdict) error {
	where := "on host " + v.Host
	if v.Host == "" {
		where = v.HostError
	}
	if v.OK {
		_, err := fmt.Fprintf(out, "guest %s is well %s: %d pages, %d disk blocks, %d ticks checked\n",
			v.Guest, where, v.Report.Pages, v.Report.Blocks, v.Report.Seal.Ticks)
		if len(v.Report.Disks) > 1 {
			printDisks(out, v.Report.Disks)
		}
		return err
	}
	fmt.Fprintf(out, "guest %s is NOT well (%s): %d findings\n", v.Guest, where, v.Findings.Total())
	for _, f := range v.Findings.List {
		fmt.Fprintf(out, "  %v\n", f)
	}
	if v.Report.Error != "" {
		fmt.Fprintf(out, "  the check is incomplete: %s\n", v.Report.Error)
	}
	printDisks(out, v.Report.Disks)
	return nil
}

// printDisks writes a line for each disk.
func printDisks(out io.Writer, disks []oracle.DiskReport) {
	for _, d := range disks {
		state := "well"
		if !d.OK {
			state = fmt.Sprintf("NOT well, %d findings", d.Findings)
		}
		fmt.Fprintf(out, "  disk %s is %s: %d blocks checked, %d written by the guest, %d as they were filled\n",
			d.Name, state, d.Blocks, d.Blocks-d.Unwritten, d.Filled)
	}
}

// parseDisks reads the disks of a guest; a size of 0 is none.
func parseDisks(texts []string) ([]testenv.Disk, error) {
	var disks []testenv.Disk
	for _, text := range texts {
		d, err := testenv.ParseDisk(text)
		if err != nil {
			return nil, err
		}
		if d.Size > 0 {
			disks = append(disks, d)
		}
	}
	return disks, nil
}

func newLabWitnessCmd(l *lab) *cobra.Command {
	return &cobra.Command{
		Use:   "witness NAME",
		Short: "Show what a client saw of a guest since it was started",
		Long: `Show what the lab's own client saw, which has asked the guest for an answer
every few milliseconds: the longest time without one is the downtime as a user
feels it.`,
		Args: rangeArgs(1, 1, "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			g, err := l.guest(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			r, err := g.Witness(cmd.Context())
			if err != nil {
				return err
			}
			return l.show(cmd, r, func() error {
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "%d answers in %s, the longest gap %s (at %s), %d errors of the guest\n",
					r.WitnessCounts.Answers, r.At.Sub(r.Started).Round(time.Millisecond), r.LongestGap.Length.Round(100*time.Microsecond),
					r.LongestGap.Start.Format(time.TimeOnly), r.Findings.Total())
				return err
			})
		},
	}
}
