package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/vmmigrate/vmmigrate/analysis/sample/store"
	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/journal"
	"github.com/vmmigrate/vmmigrate/migrate/sampler"
)

//go:embed systemd/vmmigrate-watch.service
var watchUnit string

const watchLong = `Of a migration that is under way, or that waits for its moment: follow it until
its end and print its report. Ctrl-C leaves it running. A migration's own name,
or --progress, asks for one that has ended, too.

Of guests that are not being migrated: show what they use, each second, until
Ctrl-C: the RAM that they write, CPU, disk writes, and what they send. On a
terminal it is drawn; elsewhere, and with -o json, a sample is a line of JSON.
The RAM written is QEMU's own measurement by samples of its pages (of RAM blocks
of 128 MiB and more), over windows of one second and now and then of 2, 4, 8, 16
and 32: what is written twice in a window counts once. Nothing is measured while
a guest is being migrated.

With --agent a tracker of ours counts that RAM, exactly and in every second, in
place of QEMU's samples: an agent on the guest's host puts it into QEMU
(userfaultfd, as export --track and the engine nbd do) and takes it out at the
end. A migration that begins sends it away and is not held up; where it cannot
be had, QEMU measures. It is one agent's process per guest, and the guest pays
about 2 us for its first write to each page in each second: below 1 % of a CPU
up to 20 MiB of different pages a second.

With --daemon the samples go into a file beside the journal, samples.db, which
keeps seconds for hours, minutes for weeks, five minutes for months, and stays
below 1 GiB. It also takes up migrations of this journal that wait for their
moment (migrate --when) and whose process is gone, killed or lost with a restart
of the machine, as recover does: at its start and then every 30 s. What should
have begun meanwhile begins at once; they go on when the daemon ends. It is for
a service, which records all guests of this host:

  vmmigrate watch --print-unit >/etc/systemd/system/vmmigrate-watch.service
  systemctl daemon-reload && systemctl enable --now vmmigrate-watch

--export writes what was recorded of a guest as CSV; --import keeps a CSV file
from elsewhere there, under a name that is used like a guest's.

` + exitCodeHelp

// watchFlags are the options of watch.
type watchFlags struct {
	progress             string
	interval, during     time.Duration
	noDirty, agent       bool
	daemon, unit         bool
	export, imported, as string
}

func newWatchCmd(g *globals) *cobra.Command {
	f := &watchFlags{}
	cmd := &cobra.Command{
		Use:   "watch {MIGRATION|DOMAIN... | --daemon | --import FILE}",
		Short: "Follow a migration, or see what guests use and record it",
		Long:  watchLong,
		Example: `  vmmigrate watch web
  vmmigrate watch --daemon
  vmmigrate watch web --export web.csv
  vmmigrate watch --import trace.csv --as trace`,
		RunE: func(cmd *cobra.Command, args []string) error { return runWatch(cmd, g, f, args) },
	}
	fs := cmd.Flags()
	f.register(fs)
	return cmd
}

func (f *watchFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.progress, "progress", "auto", "`MODE` of a migration's progress on standard error: auto, bar, log, json, none")
	fs.DurationVar(&f.interval, "interval", time.Second, "`TIME` between samples, at least 1s")
	fs.DurationVar(&f.during, "for", 0, "end after this `TIME` (default: at Ctrl-C)")
	fs.BoolVar(&f.noDirty, "no-dirty", false, "do not have QEMU measure the RAM that is written")
	fs.BoolVar(&f.agent, "agent", false, "count the RAM that is written by a tracker of ours, not QEMU's samples")
	fs.BoolVar(&f.daemon, "daemon", false, "record samples and show nothing, of all guests of the host if none is named, and take up migrations that wait and whose process is gone")
	fs.BoolVar(&f.unit, "print-unit", false, "print the systemd unit of the service that records")
	fs.StringVar(&f.export, "export", "", "write what was recorded of the guest as CSV into this `FILE`; - is standard output")
	fs.StringVar(&f.imported, "import", "", "keep the series of this CSV `FILE`; - is standard input")
	fs.StringVar(&f.as, "as", "", "`NAME` under which --import keeps them")
}

// runWatch does what was asked for.
func runWatch(cmd *cobra.Command, g *globals, f *watchFlags, args []string) error {
	asked := 0
	for _, on := range []bool{f.daemon, f.unit, f.export != "", f.imported != ""} {
		if on {
			asked++
		}
	}
	switch {
	case asked > 1:
		return usagef("--daemon, --print-unit, --export and --import exclude each other")
	case (f.imported != "") != (f.as != ""):
		return usagef("--import and --as go together")
	case f.agent && f.noDirty:
		return usagef("--agent and --no-dirty exclude each other")
	case f.interval < time.Second:
		return usagef("--interval %s is below a second", f.interval)
	case f.unit && len(args) == 0:
		return printUnitOf(cmd.OutOrStdout(), watchUnit)
	case f.imported != "" && len(args) == 0:
		return importSeries(cmd.Context(), g, cmd.OutOrStdout(), f.imported, f.as)
	case f.unit, f.imported != "":
		return usagef("this takes no domains")
	case f.export != "" && len(args) != 1:
		return usagef("--export wants one domain, got %d", len(args))
	case f.export != "":
		return exportSeries(cmd.Context(), g, cmd.OutOrStdout(), f.export, args[0])
	case len(args) == 0 && !f.daemon:
		return usagef("vmmigrate watch wants a migration or a domain, got 0 arguments")
	}
	ctx, stop := interruptible(cmd)
	defer stop()
	if len(args) == 1 && !f.daemon {
		attach, err := isMigration(ctx, g, args[0], cmd.Flags().Changed("progress"))
		if err != nil {
			return err
		}
		if attach {
			return watchMigration(ctx, cmd, g, f.progress, args[0])
		}
	}
	return watchGuests(ctx, cmd, g, f, args)
}

// isMigration tells whether a name is that of a migration, or of a domain that has one which is not over. ended has any do.
func isMigration(ctx context.Context, g *globals, name string, ended bool) (bool, error) {
	db, err := openJournal(ctx, g)
	if errors.Is(err, journal.ErrAbsent) {
		return ended, nil // then it says that there is none
	}
	if err != nil {
		return false, err
	}
	defer db.Close()
	if ended {
		return true, nil
	}
	if _, err := db.FindWait(ctx, name); err == nil {
		return true, nil
	}
	s, err := find(ctx, db, name)
	if errors.Is(err, migrate.ErrNoMigration) {
		return false, nil
	}
	return err == nil && (s.Entry.ID == name || !s.Last.Final), err
}

// watchMigration follows a migration until its end.
func watchMigration(ctx context.Context, cmd *cobra.Command, g *globals, progress, name string) error {
	db, err := openJournal(ctx, g)
	if err != nil {
		return err
	}
	defer db.Close()
	v, err := newView(progress, g.stderr)
	if err != nil {
		return err
	}
	if name, err = followWait(ctx, db, name, v); err != nil {
		return err
	}
	s, err := find(ctx, db, name)
	if err != nil {
		return err
	}
	s, err = follow(ctx, db, s.Entry.ID, v)
	v.close()
	if err != nil {
		return err
	}
	return watched(cmd, g, s)
}

// watchGuests samples guests, and shows or records them.
func watchGuests(ctx context.Context, cmd *cobra.Command, g *globals, f *watchFlags, domains []string) (err error) {
	if f.during > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, f.during)
		defer stop()
	}
	if !f.daemon {
		if err := allRun(ctx, g, domains); err != nil {
			return err
		}
	}
	busy := &migrations{g: g}
	c := sampler.Config{Domains: domains, Interval: f.interval, NoDirty: f.noDirty, Log: g.log(), Busy: busy.has, Emit: sampleWriter(cmd.OutOrStdout(), g.json()),
		Open: func(ctx context.Context) (sampler.Source, error) { return openMetered(ctx, g) }}
	if f.agent {
		c.Count = func(ctx context.Context, guest store.Guest) (sampler.Counter, error) {
			return openCounter(ctx, g, guest.Name)
		}
	}
	if f.daemon {
		log, w := agentLog(g)
		defer w.Close()
		path, err := samplesPath(g)
		if err != nil {
			return err
		}
		s, err := store.Open(ctx, path, store.Options{})
		if err != nil {
			return err
		}
		r := newRecorder(s, log)
		defer func() { err = errors.Join(err, r.close()) }()
		c.Emit, c.Log = r.add, log
		log.Info("recording", "file", path, "interval", f.interval, "domains", domains)
		defer takeCare(ctx, g, log)()
	}
	return sampler.Run(ctx, c)
}

// takeCare takes up migrations whose wait nobody waits out any more, until the returned function is called.
func takeCare(ctx context.Context, g *globals, log *slog.Logger) (end func()) {
	ctx, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { newCaretaker(g, log).run(ctx) })
	return func() {
		stop()
		running.Wait()
	}
}

// allRun refuses domains that are not there or do not run, before anything is shown.
func allRun(ctx context.Context, g *globals, domains []string) error {
	h, err := openHost(ctx, g.connect, g.log())
	if err != nil {
		return err
	}
	defer h.Close()
	for _, d := range domains {
		st, err := h.State(ctx, d)
		if err != nil {
			return err
		}
		if st.Run == migrate.RunStopped || st.Run == migrate.RunCrashed {
			return &migrate.OpError{Op: "watch " + d, Err: fmt.Errorf("it is %s", st.Run), Fix: "start the guest"}
		}
	}
	return nil
}

// migrations asks the journal which guests are being migrated, once a second at most.
type migrations struct {
	g     *globals
	asked time.Time
	names map[string]bool // and UUIDs
}

// has is sampler.Config.Busy. Where the journal cannot be read nothing is known, and the host's own word has to do.
func (m *migrations) has(ctx context.Context, guest store.Guest) bool {
	if time.Since(m.asked) >= time.Second {
		m.asked, m.names = time.Now(), map[string]bool{}
		db, err := openJournal(ctx, m.g)
		if err != nil {
			return false
		}
		defer db.Close()
		list, err := db.Unfinished(ctx)
		if err != nil {
			m.g.log().Info("the journal cannot be read", "err", err)
		}
		for _, s := range list {
			if s.Alive {
				m.names[s.Entry.Domain], m.names[s.Entry.DomainUUID] = true, true
			}
		}
	}
	return m.names[guest.Name] || m.names[guest.UUID]
}

// sampleWriter draws samples on a terminal, and writes them as JSON elsewhere.
func sampleWriter(w io.Writer, asJSON bool) func(context.Context, []sampler.Sample) error {
	f, ok := w.(*os.File)
	if asJSON || !ok || !term.IsTerminal(int(f.Fd())) {
		return func(_ context.Context, all []sampler.Sample) error { return writeSamples(w, all) }
	}
	v := &liveView{w: w, width: func() int { return reportWidth(w) }}
	return func(_ context.Context, all []sampler.Sample) error {
		v.add(all)
		return v.draw()
	}
}

// sampleLine is a sample as JSON. What is not known is absent.
type sampleLine struct {
	Schema     string      `json:"schema"`
	Time       time.Time   `json:"time"`
	IntervalMS int64       `json:"interval_ms"`
	Domain     string      `json:"domain"`
	UUID       string      `json:"uuid"`
	CPU        *float64    `json:"cpu,omitempty"`
	DiskWrites *float64    `json:"disk_writes_bytes_per_s,omitempty"`
	Network    *float64    `json:"network_bytes_per_s,omitempty"`
	Dirty      *windowLine `json:"dirty,omitempty"`
	Migrating  bool        `json:"migrating,omitempty"`
}

type windowLine struct {
	Time     time.Time `json:"time"`
	WindowMS int64     `json:"window_ms"`
	Bytes    int64     `json:"bytes"`
	Mode     string    `json:"mode"`
}

// writeSamples writes one object a line.
func writeSamples(w io.Writer, all []sampler.Sample) error {
	known := func(v float64) *float64 {
		if math.IsNaN(v) {
			return nil
		}
		return &v
	}
	for _, s := range all {
		l := sampleLine{Schema: "vmmigrate.sample/v1", Time: s.At.UTC(), IntervalMS: s.Step.Milliseconds(), Domain: s.Guest.Name, UUID: s.Guest.UUID,
			CPU: known(s.CPU), DiskWrites: known(s.DiskWrites), Network: known(s.Network), Migrating: s.Migrating}
		if x := s.Window; x != nil {
			l.Dirty = &windowLine{x.At.UTC(), x.Length.Milliseconds(), int64(x.Bytes), x.Mode}
		}
		b, err := json.Marshal(l)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "%s\n", b); err != nil {
			return err
		}
	}
	return nil
}
