package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/testenv"
	"github.com/vmmigrate/vmmigrate/testenv/link"
)

// demo is the main job from one end to the other, on a lab of its own.
type demo struct {
	*lab
	link, workload, memory, disk, strategy, progress, report string
	keep                                                     bool
}

func newLabDemoCmd(l *lab) *cobra.Command {
	d := &demo{lab: l}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Move a live guest between two hosts, from nothing to clean",
		Long: `Do the main job from one end to the other: bring up two hosts, boot a guest
that writes to its memory and disk, migrate it while a client talks to it,
print the report, have the guest check itself, and take everything down. The
lab is called demo unless --name says otherwise.

The exit code is that of migrate, or 1 if the guest is not well.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("name") {
				l.name = "demo"
			}
			ctx, stop := interruptible(cmd)
			defer stop()
			return d.run(ctx, cmd)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&d.link, "link", "1gbit", "each host's link, a `SPEC` as in lab up")
	fs.StringVar(&d.workload, "workload", "mixed:size=128MiB,rate=5000", "the `WORK` that the guest does, as in lab guest")
	fs.StringVar(&d.memory, "memory", "512MiB", "`SIZE` of the guest's RAM")
	fs.StringVar(&d.disk, "disk", "256MiB", "`SIZE` of the guest's disk")
	fs.StringVar(&d.strategy, "strategy", "auto", "`STRATEGY` of the migration: auto, precopy, postcopy, hybrid")
	fs.StringVar(&d.progress, "progress", "auto", "`MODE` of progress: auto, bar, log, json, none")
	fs.StringVar(&d.report, "report", "", "write the report as JSON into this `FILE`")
	fs.BoolVar(&d.keep, "keep", false, "leave the lab up, with the guest in it")
	return cmd
}

// say prints what is being done; with -o json standard output belongs to the report.
func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.stderr, format+"\n", args...) }

func (d *demo) run(ctx context.Context, cmd *cobra.Command) (err error) {
	spec, err := link.ParseSpec(d.link)
	if err != nil {
		return usageError{err}
	}
	begin := time.Now()
	d.say("── two libvirt hosts, linked at %s", d.link)
	up, err := testenv.Up(ctx, testenv.Config{Name: d.name, Dir: d.dir, Link: spec, Progress: func(s string) { d.say("   %s", s) }})
	if err != nil {
		return err
	}
	defer func() {
		if d.keep {
			d.say("── left up; end it with: vmmigrate lab --name %s down", d.name)
			return
		}
		down, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer stop()
		if derr := up.Down(down); derr != nil && err == nil {
			err = derr
		}
		d.say("── lab down, nothing is left; %.1f s in all", time.Since(begin).Seconds())
	}()
	g, err := d.boot(ctx, up)
	if err != nil {
		return err
	}
	return d.move(ctx, cmd, up, g)
}

// boot starts the guest and lets it work.
func (d *demo) boot(ctx context.Context, up *testenv.Lab) (*testenv.Guest, error) {
	c := testenv.GuestConfig{Name: "web", Workload: d.workload}
	var err error
	if c.Memory, err = testenv.ParseSize(d.memory); err != nil {
		return nil, usageError{err}
	}
	if c.Disk, err = testenv.ParseSize(d.disk); err != nil {
		return nil, usageError{err}
	}
	d.say("── a Linux guest: %s of RAM, a disk of %s, a network card\n   its workload: %s", d.memory, d.disk, d.workload)
	begin := time.Now()
	ctx, stop := context.WithTimeout(ctx, startPatience)
	defer stop()
	g, err := up.StartGuest(ctx, c)
	if err != nil {
		return nil, err
	}
	d.say("   it answers at %s after %.1f s; a client talks to it from now on", g.Address(), time.Since(begin).Seconds())
	return g, nil
}

// move migrates the guest as the migrate command does, and then has it checked.
func (d *demo) move(ctx context.Context, cmd *cobra.Command, up *testenv.Lab, g *testenv.Guest) error {
	hosts := up.Hosts()
	state := filepath.Join(up.Dir(), "journal")
	f := &migrateFlags{domain: g.Name(), dest: hosts[1].URI(), engine: "auto", strategy: d.strategy, live: true,
		maxDowntime: 300 * time.Millisecond, persistent: true, undefine: true, copyAll: true}
	p, err := f.params()
	if err != nil {
		return err
	}
	o := order{ID: migrate.NewID(), Domain: f.domain, Source: hosts[0].URI(), Dest: f.dest, Engine: migrate.EngineName(f.engine), Params: p, StateDir: state}
	d.say("── vmmigrate migrate web %s --copy-storage-all --persistent --undefinesource", hosts[1].Name())
	begin := time.Now()
	found, e, err := runOrder(ctx, d.globals, o, d.progress)
	if err != nil {
		return err
	}
	end := time.Now()
	if e.Report != nil {
		if w, err := g.Witness(ctx); err == nil {
			ms := float64(w.GapWithin(begin, end).Length.Microseconds()) / 1000
			e.Report.OutsideDowntimeMS = &ms
		}
		if err := writeReport(d.report, *e.Report); err != nil {
			return err
		}
	}
	shown := show(cmd, d.globals, found, e)
	if err := d.verify(ctx, d.stderr, g); err != nil {
		return err
	}
	return shown
}

func (d *demo) verify(ctx context.Context, w io.Writer, g *testenv.Guest) error {
	ctx, stop := context.WithTimeout(ctx, verifyPatience)
	defer stop()
	v, err := g.Verify(ctx)
	if err != nil {
		return err
	}
	d.say("── the guest checks itself on host %s", v.Host)
	if err := printVerdict(w, v); err != nil {
		return err
	}
	if !v.OK {
		return codeError(exitFailure)
	}
	return nil
}
