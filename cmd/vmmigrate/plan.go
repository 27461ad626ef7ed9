package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmmigrate/vmmigrate/analysis/advise"
	"github.com/vmmigrate/vmmigrate/analysis/cycle"
	"github.com/vmmigrate/vmmigrate/analysis/forecast"
	"github.com/vmmigrate/vmmigrate/analysis/page"
	"github.com/vmmigrate/vmmigrate/analysis/sample"
	"github.com/vmmigrate/vmmigrate/analysis/sample/store"
	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/check"
	"github.com/vmmigrate/vmmigrate/migrate/journal"
	"github.com/vmmigrate/vmmigrate/migrate/sampler"
)

type planFlags struct {
	link, deadline           string
	mayPostcopy, mayThrottle bool
	measure                  time.Duration
}

func newPlanCmd(g *globals) *cobra.Command {
	f, p := &migrateFlags{}, &planFlags{}
	cmd := &cobra.Command{
		Use:   "plan DOMAIN DESTURI [MIGRATEURI]",
		Short: "Say what a migration would take, by each way, and when",
		Long: `Say what a migration would take by each engine and strategy that check lets
through: its duration, the pause, the bytes sent, how long the guest would be
slow, and how likely its rounds come to an end; with a range for each, in which
nine of ten runs are expected to be. Then which of them to take, and when:
within --deadline the part of the guest's cycle is looked for that suits best.
Nothing is changed on either host.

It goes by what vmmigrate watch has recorded of the guest; if there is nothing,
the guest is looked at for --measure first. The link's bandwidth is --link, or
what earlier migrations between these hosts have seen, or a guess that is named
as such. Earlier migrations of the guest tell how much of its RAM is in use, and
correct the forecast by what they really took.`,
		Example: `  vmmigrate plan web qemu+ssh://b/system --copy-storage-all
  vmmigrate plan web qemu+ssh://b/system --link 10gbit --deadline 06:00 \
      --max-downtime 100ms --may-postcopy=false`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := f.order(g, args)
			if err != nil {
				return err
			}
			return p.run(cmd, g, o)
		},
	}
	f.register(cmd)
	fs := cmd.Flags()
	fs.StringVar(&p.link, "link", "", "what the link carries: a `RATE` as for --bandwidth (default: as seen before)")
	fs.StringVar(&p.deadline, "deadline", "+1h", "`TIME` by which the migration is to be over: 22:30, 2026-01-31T22:30:00Z, +45m")
	fs.BoolVar(&p.mayPostcopy, "may-postcopy", true, "the guest may run at the destination before all of its RAM is there")
	fs.BoolVar(&p.mayThrottle, "may-throttle", false, "the guest may be slowed down so that pre-copy comes to an end")
	fs.DurationVar(&p.measure, "measure", 10*time.Second, "look at a guest of which nothing was recorded for this `TIME`")
	return cmd
}

// planned is what plan prints as JSON. Times are in seconds.
type planned struct {
	Schema  string       `json:"schema"`
	Domain  string       `json:"domain"`
	Source  string       `json:"source"`
	Dest    string       `json:"destination"`
	RAM     int64        `json:"ram_bytes"`
	NonZero int64        `json:"nonzero_bytes,omitempty"`
	Disks   int64        `json:"disk_bytes"`
	Link    float64      `json:"link_bytes_per_s"`
	Guess   bool         `json:"link_is_a_guess"`
	Seen    int          `json:"samples"`
	Runs    int          `json:"past_runs"`
	Cycles  []foundCycle `json:"cycles"`
	Ways    []plannedWay `json:"ways"`
	Advised plannedWay   `json:"advised"`
	Start   time.Time    `json:"start"`
	Wait    bool         `json:"wait"`
	Reason  string       `json:"reason"`
}

type plannedWay struct {
	Engine     string         `json:"engine"`
	Strategy   string         `json:"strategy"`
	DurationS  forecast.Range `json:"duration_s"`
	DowntimeS  forecast.Range `json:"downtime_s"`
	Bytes      forecast.Range `json:"bytes"`
	SlowForS   forecast.Range `json:"slow_for_s"`
	Converges  float64        `json:"converges"`
	Why        string         `json:"why"`
	durations  forecast.Span
	downtimes  forecast.Span
	slow       forecast.Span
	strategies forecast.Way
}

func (f *planFlags) run(cmd *cobra.Command, g *globals, o order) error {
	ctx, now := cmd.Context(), time.Now()
	deadline, err := timeOf("--deadline", f.deadline, now)
	if err != nil {
		return err
	}
	link, err := parseBandwidth("--link", f.link)
	if err != nil {
		return err
	}
	t, res, seen, err := f.see(ctx, g, o, link)
	if err != nil {
		return err
	}
	if res.Blocked() {
		return errors.Join(res.WriteText(g.stderr), codeError(exitBlocked))
	}
	t.params.AutoConverge = t.params.AutoConverge || f.mayThrottle
	if now = time.Now(); !deadline.After(now) {
		return usagef("--deadline %s is over", f.deadline)
	}
	r := t.request(seen, now, deadline)
	r.MayPostcopy = f.mayPostcopy
	a, err := advise.Cycle{}.Advise(r)
	if err != nil {
		return fmt.Errorf("plan %s: %w", o.Domain, err)
	}
	out := planned{Schema: "vmmigrate.plan/v1", Domain: o.Domain, Source: res.Source, Dest: res.Destination, RAM: t.guest.RAM, NonZero: t.guest.NonZero, Disks: t.guest.Disks,
		Link: t.link.Bandwidth, Guess: t.assumed, Seen: seen.dirty.Known(), Runs: len(t.past.runs), Cycles: []foundCycle{}, Advised: wayOf(a.Cost), Start: a.Start, Wait: a.Wait, Reason: a.Reason}
	for _, c := range seen.cycles.Cycles {
		out.Cycles = append(out.Cycles, foundCycle{c.Period.Seconds(), c.Confidence, c.Strength, c.Drift})
	}
	for _, w := range t.ways {
		out.Ways = append(out.Ways, wayOf(forecast.Correct(forecast.Estimate(now, w, t.guest, t.told(), seen.curve, r.Limits), t.past.runs)))
	}
	if g.json() {
		return printJSON(cmd.OutOrStdout(), out)
	}
	return out.write(cmd.OutOrStdout())
}

func wayOf(c forecast.Cost) plannedWay {
	return plannedWay{Engine: c.Engine, Strategy: c.Strategy, DurationS: c.Duration.Range(), DowntimeS: c.Downtime.Range(), Bytes: c.Bytes, SlowForS: c.SlowFor.Range(),
		Converges: c.Converges, Why: c.Why, durations: c.Duration, downtimes: c.Downtime, slow: c.SlowFor, strategies: c.Way}
}

// see checks both engines that may be used, and looks at the guest. A result that is blocked comes without the rest.
func (f *planFlags) see(ctx context.Context, g *globals, o order, link int64) (task, check.Result, outlook, error) {
	hosts, res, _, err := look(ctx, o, g.log())
	defer hosts.close()
	if err != nil || res.Blocked() {
		return task{}, res, outlook{}, unless(err, migrate.ErrBlocked)
	}
	d, err := hosts.src.Domain(ctx, o.Domain)
	if err != nil {
		return task{}, res, outlook{}, err
	}
	db, err := journal.OpenReadOnly(ctx, o.StateDir)
	if err != nil {
		db = nil // there is no past
	} else {
		defer db.Close()
	}
	t, err := taskOf(ctx, res, db, d.UUID, link)
	if err != nil {
		return t, res, outlook{}, err
	}
	t = t.bounded(ctx, hosts.src, o.Domain)
	if t = t.only(o.Params.Strategy); o.Engine == migrate.EngineAuto && res.Engine == migrate.EngineNBD {
		o.Engine = migrate.EngineNative
		if _, other, _, err := look(ctx, o, g.log()); err == nil && !other.Blocked() {
			if more, err := taskOf(ctx, other, db, d.UUID, link); err == nil {
				t.ways = append(t.ways, more.only(o.Params.Strategy).ways...)
			}
		}
	}
	seen, err := lookOut(ctx, o.StateDir, d.UUID)
	if errors.Is(err, sample.ErrNoSamples) {
		seen, err = f.measured(ctx, g, o, d)
	}
	return t, res, seen, err
}

// unless gives nil for an error of a kind that is shown otherwise.
func unless(err, kind error) error {
	if errors.Is(err, kind) {
		return nil
	}
	return err
}

// measured looks at a guest of which nothing was recorded, and keeps nothing of it.
func (f *planFlags) measured(ctx context.Context, g *globals, o order, d migrate.DomainFacts) (outlook, error) {
	dir, err := os.MkdirTemp("", "vmmigrate-plan")
	if err != nil {
		return outlook{}, err
	}
	defer os.RemoveAll(dir)
	db, err := store.Open(ctx, filepath.Join(dir, samplesFile), store.Options{})
	if err != nil {
		return outlook{}, err
	}
	fmt.Fprintf(g.stderr, "nothing was recorded of %s; looking at it for %s\n", o.Domain, f.measure)
	short, stop := context.WithTimeout(ctx, f.measure)
	defer stop()
	rec := newRecorder(db, g.log())
	err = sampler.Run(short, sampler.Config{Open: func(ctx context.Context) (sampler.Source, error) { return openMetered(ctx, g) },
		Domains: []string{d.Name}, Emit: rec.add, Log: g.log()})
	if err = errors.Join(err, rec.close()); err != nil {
		return outlook{}, err
	}
	seen, err := lookOut(ctx, dir, d.UUID)
	if errors.Is(err, sample.ErrNoSamples) {
		err = &migrate.OpError{Op: "see what the guest writes", Side: migrate.SideSource, Err: err, Fix: "vmmigrate watch " + o.Domain + " says more"}
	}
	return seen, err
}

func (p planned) write(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s of RAM", p.Domain, page.Quantity(float64(p.RAM), "B"))
	if p.NonZero > 0 && p.NonZero < p.RAM {
		fmt.Fprintf(&b, " (%s in use)", page.Quantity(float64(p.NonZero), "B"))
	}
	if p.Disks > 0 {
		fmt.Fprintf(&b, ", %s of disks", page.Quantity(float64(p.Disks), "B"))
	}
	fmt.Fprintf(&b, ", a link of %s", page.Quantity(p.Link, "B/s"))
	if p.Guess {
		b.WriteString(" (a guess: say --link)")
	}
	fmt.Fprintf(&b, "\n%d samples of what it writes", p.Seen)
	if p.Runs > 0 {
		fmt.Fprintf(&b, ", earlier migrations: %d", p.Runs)
	}
	switch {
	case len(p.Cycles) > 0:
		fmt.Fprintf(&b, ", which repeats every %s\n\n", cycle.Short(time.Duration(p.Cycles[0].PeriodS*float64(time.Second))))
	default:
		b.WriteString(", no cycle\n\n")
	}
	fmt.Fprintf(&b, "%-16s  %-22s  %-21s  %-24s  %s\n", "started now by", "takes", "pauses", "sends", "ends")
	for _, way := range p.Ways {
		fmt.Fprintf(&b, "%-16s  %-22s  %-21s  %-24s  %3.0f %%\n", way.strategies, within(way.durations), within(way.downtimes), amount(way.Bytes), 100*way.Converges)
	}
	b.WriteString("\n")
	for _, l := range wrapped(p.Reason, 98) {
		b.WriteString(l + "\n")
	}
	a := p.Advised
	fmt.Fprintf(&b, "%-16s  %-22s  %-21s  %-24s  %3.0f %%\n", a.strategies, within(a.durations), within(a.downtimes), amount(a.Bytes), 100*a.Converges)
	_, err := io.WriteString(w, b.String())
	return err
}

// within is a time with its range.
func within(s forecast.Span) string {
	return fmt.Sprintf("%s (%s-%s)", cycle.Short(s.Expected), strings.Replace(cycle.Short(s.Low), " ", "", 1), strings.Replace(cycle.Short(s.High), " ", "", 1))
}

func amount(r forecast.Range) string {
	tight := func(v float64) string { return strings.Replace(page.Quantity(v, "B"), " ", "", 1) }
	return fmt.Sprintf("%s (%s-%s)", page.Quantity(r.Expected, "B"), tight(r.Low), tight(r.High))
}
