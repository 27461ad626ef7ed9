package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/journal"
)

// view shows progress. Its methods are called from one goroutine; close returns when everything is on the screen.
type view interface {
	progress(migrate.Progress)
	// waits tells of a migration that has not begun.
	waits(journal.Wait)
	close()
}

var progressModes = []string{"auto", "bar", "log", "json", "none"}

// newView picks the view for --progress. auto is a bar on a terminal and a log elsewhere. Progress goes to standard
// error, so that standard output carries only the report; json lines go there, too, for the same reason.
func newView(mode string, w io.Writer) (view, error) {
	if mode == "auto" {
		mode = "log"
		if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
			mode = "bar"
		}
	}
	switch mode {
	case "bar":
		return newBar(w), nil
	case "log":
		return &logView{w: w}, nil
	case "json":
		return jsonView{w}, nil
	case "none":
		return noView{}, nil
	}
	return nil, usagef("--progress %q is none of %s", mode, strings.Join(progressModes, ", "))
}

type noView struct{}

func (noView) progress(migrate.Progress) {}
func (noView) waits(journal.Wait)        {}
func (noView) close()                    {}

// jsonView writes one object a line.
type jsonView struct{ w io.Writer }

func (v jsonView) progress(p migrate.Progress) {
	if b, err := json.Marshal(p); err == nil {
		_, _ = fmt.Fprintf(v.w, "%s\n", b)
	}
}

func (v jsonView) waits(w journal.Wait) {
	v.progress(migrate.Progress{Migration: w.ID, Domain: w.Domain, Time: time.Now(), Phase: migrate.PhaseWaiting, Owner: migrate.OwnerSource,
		Wait: &migrate.ProgressWait{Start: w.Start, Deadline: w.Deadline, Why: w.Why}})
}

func (jsonView) close() {}

// logView writes a line when the phase changes, when there is a note, and every few seconds in between.
type logView struct {
	w     io.Writer
	phase migrate.Phase
	last  time.Time
}

const logEvery = 5 * time.Second

func (v *logView) progress(p migrate.Progress) {
	if p.Note != "" {
		fmt.Fprintf(v.w, "%s %-10s %s\n", p.Time.Local().Format(time.TimeOnly), p.Phase, p.Note)
	}
	if p.Phase == v.phase && p.Outcome == 0 && p.Time.Sub(v.last) < logEvery || p.Phase == migrate.PhaseEnded && p.Outcome == 0 {
		return
	}
	v.phase, v.last = p.Phase, p.Time
	fmt.Fprintf(v.w, "%s %-10s %s\n", p.Time.Local().Format(time.TimeOnly), p.Phase, strings.Join(figures(p), "  "))
}

func (v *logView) waits(w journal.Wait) {
	now := time.Now()
	fmt.Fprintf(v.w, "%s %-10s %s\n", now.Format(time.TimeOnly), "waiting", waitText(w, now))
}
func (*logView) close() {}

// waitText says until when a migration waits, and why.
func waitText(w journal.Wait, now time.Time) string {
	return "until " + untilText(w.Start, now) + ": " + w.Why
}

// barView is one bar with the figures behind it, and the notes above it.
type barView struct {
	out  *mpb.Progress
	bar  *mpb.Bar
	last migrate.Progress
	text chan string // holds the newest figures; the bar's goroutine reads it
}

const barScale = 1000

func newBar(w io.Writer) *barView {
	v := &barView{text: make(chan string, 1)}
	v.text <- ""
	v.out = mpb.New(mpb.WithOutput(w), mpb.WithAutoRefresh(), mpb.WithRefreshRate(120*time.Millisecond))
	v.bar = v.out.New(barScale, mpb.BarStyle().Lbound("▕").Filler("█").Tip("█").Padding("░").Rbound("▏"),
		mpb.BarWidth(24),
		mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return v.peek() }, decor.WCSyncSpaceR)),
		mpb.AppendDecorators(decor.Any(func(s decor.Statistics) string { return fit(v.peekFigures(), s.AvailableWidth) })))
	return v
}

// peek and peekFigures read the newest text without taking it away.
func (v *barView) peek() string {
	s := <-v.text
	v.text <- s
	phase, _, _ := strings.Cut(s, "\n")
	return fmt.Sprintf("%-10s", phase)
}

func (v *barView) peekFigures() string {
	s := <-v.text
	v.text <- s
	_, figures, _ := strings.Cut(s, "\n")
	return figures
}

// fit cuts figures, which are two spaces apart, from the right until they fit into width columns.
func fit(s string, width int) string {
	s = " " + s
	for len(s) > width {
		i := strings.LastIndex(s, "  ")
		if i < 0 {
			return ""
		}
		s = s[:i]
	}
	return s
}

func (v *barView) progress(p migrate.Progress) {
	if p.Note != "" {
		_, _ = fmt.Fprintf(v.out, "%-10s %s\n", p.Phase, p.Note)
	}
	<-v.text
	v.text <- p.Phase.String() + "\n" + strings.Join(figures(p), "  ")
	v.bar.SetCurrent(min(int64(p.Percent*barScale/100), barScale-1))
	v.last = p
	if p.Outcome == migrate.OutcomeCompleted {
		v.bar.SetCurrent(barScale)
	}
}

func (v *barView) waits(w journal.Wait) {
	_, _ = fmt.Fprintf(v.out, "%-10s %s\n", "waiting", waitText(w, time.Now()))
	<-v.text
	v.text <- "waiting\n until " + w.Start.Local().Format(time.TimeOnly)
}

func (v *barView) close() {
	if v.last.Outcome != migrate.OutcomeCompleted {
		v.bar.Abort(false)
	}
	v.out.Wait()
}

// figures are what is known of a running migration, the most telling first.
func figures(p migrate.Progress) []string {
	out := []string{fmt.Sprintf("%3.0f %%", p.Percent)}
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if p.ETAMS != nil && p.Outcome == 0 {
		add("%s left", etaText(*p.ETAMS))
	}
	if p.RemainingBytes != nil {
		add("%s to go", sizeText(*p.RemainingBytes))
	}
	for _, d := range p.Disks {
		if t := diskText(d); t != "" && p.Outcome == 0 {
			add("%s %s", d.Name, t)
		}
	}
	if p.BandwidthBytesPerS != nil {
		add("link %s/s", sizeText(*p.BandwidthBytesPerS))
	}
	if p.DirtyBytesPerS != nil && *p.DirtyBytesPerS > 0 {
		add("dirty %s/s", sizeText(*p.DirtyBytesPerS))
	}
	if p.Round != nil && *p.Round > 1 {
		add("round %d", *p.Round)
	}
	if p.Outcome != 0 {
		add("%s", p.Outcome)
	}
	return out
}

// diskText says in a few words how the copy of a disk stands; nothing of one that only follows the guest.
func diskText(d migrate.ProgressDisk) string {
	switch {
	case d.Waits != "":
		return "waits"
	case d.InStep || d.RemainingBytes == nil:
		return ""
	}
	return sizeText(*d.RemainingBytes) + " to go"
}

// diskLine says the same at length.
func diskLine(d migrate.ProgressDisk) string {
	var out []string
	if d.InStep {
		out = append(out, "in step with the guest")
	} else if d.RemainingBytes != nil && d.TotalBytes != nil {
		out = append(out, fmt.Sprintf("%s of %s to go", sizeText(*d.RemainingBytes), sizeText(*d.TotalBytes)))
	}
	if d.BandwidthBytesPerS != nil && !d.InStep {
		out = append(out, sizeText(*d.BandwidthBytesPerS)+"/s")
	}
	if d.Waits != "" {
		out = append(out, d.Waits)
	}
	return strings.Join(out, ", ")
}

func etaText(r migrate.Range) string {
	low := time.Duration(r.Low) * time.Millisecond
	if r.High == nil {
		return "over " + secondsText(low)
	}
	high := time.Duration(*r.High) * time.Millisecond
	if secondsText(low) == secondsText(high) {
		return secondsText(low)
	}
	return strings.TrimSuffix(secondsText(low), " s") + "-" + secondsText(high)
}

func secondsText(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}

// sizeText writes bytes with a binary unit and three digits.
func sizeText(b int64) string {
	v, unit := float64(b), 0
	units := [...]string{"B", "KiB", "MiB", "GiB", "TiB"}
	for v >= 1000 && unit < len(units)-1 {
		v /= 1024
		unit++
	}
	if unit == 0 || v >= 100 {
		return fmt.Sprintf("%.0f %s", v, units[unit])
	}
	return fmt.Sprintf("%.3g %s", v, units[unit])
}

func joinFigures(p migrate.Progress) string { return strings.Join(figures(p), "  ") }
