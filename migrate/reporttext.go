package migrate

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// Text renders the report for a person, in lines of at most width columns (80 if it is below 60). What is not known
// is left out.
func (r Report) Text(width int) string {
	if width < 60 {
		width = 80
	}
	t := &page{width: width}
	t.wrapped("", "", r.headline())
	if r.Error != nil {
		t.wrapped("  why   ", "        ", r.Error.Cause)
		if r.Error.Fix != "" {
			t.wrapped("  fix   ", "        ", r.Error.Fix)
		}
	}
	t.blank()
	r.textFacts(t)
	r.textPhases(t)
	r.textRounds(t)
	r.textPredicted(t)
	r.textNotes(t)
	return t.String()
}

func (r Report) headline() string {
	s := fmt.Sprintf("Migration %s of %s: %s", r.Migration, r.Domain, r.Outcome)
	if r.Error != nil && r.Error.Phase != "" {
		s += " while " + r.Error.Phase
	}
	switch {
	case r.Owner == OwnerUnknown:
		return s + "; nobody may run the guest until you decide"
	case r.Outcome == OutcomePaused:
		return s + fmt.Sprintf("; the %s owns the guest and waits", r.Owner)
	}
	return s + fmt.Sprintf("; the %s owns the guest", r.Owner)
}

func (r Report) textFacts(t *page) {
	t.fact("from", r.Source)
	t.fact("to", r.Dest)
	how := string(r.Engine) + ", " + string(r.Strategy)
	if r.Prepage != "" {
		how += ", pre-paging " + r.Prepage
	}
	if r.EngineReason != "" {
		how += " (" + r.EngineReason + ")"
	}
	t.fact("engine", how)
	t.fact("started", r.Started)
	if r.TotalMS != nil {
		t.fact("total", showMS(*r.TotalMS))
	}
	r.textDowntime(t)
	if r.RAM != nil {
		t.fact("RAM", r.RAM.text())
	}
	for _, d := range r.Disks {
		t.fact("disk "+d.Name, d.text())
	}
}

var clockText = map[string]string{clockHosts: "by the hosts' clocks", clockArrival: "as the events reached the coordinator"}

func (r Report) textDowntime(t *page) {
	if r.DowntimeMS != nil {
		s := showMS(*r.DowntimeMS)
		if parts := r.partsText(); parts != "" {
			s += " = " + parts
		}
		if c := clockText[r.DowntimeClock]; c != "" {
			s += ", " + c
		}
		t.fact("downtime", s)
	}
	if r.OutsideDowntimeMS != nil {
		t.fact("", showMS(*r.OutsideDowntimeMS)+" as a client on the network saw it")
	}
}

// partOrder is the order in which the parts of a pause follow each other.
var partOrder = []string{"last_copy", "commit", "resume", "return"}

func (r Report) partsText() string {
	var out []string
	rest := maps.Clone(r.DowntimeParts)
	for _, k := range append(slices.Clone(partOrder), slices.Sorted(maps.Keys(r.DowntimeParts))...) {
		if v, ok := rest[k]; ok {
			out = append(out, strings.ReplaceAll(k, "_", " ")+" "+showMS(v))
			delete(rest, k)
		}
	}
	return strings.Join(out, " + ")
}

func (m ReportRAM) text() string {
	var out []string
	add := func(v *int64, format string) {
		if v != nil {
			out = append(out, fmt.Sprintf(format, showBytes(*v)))
		}
	}
	add(m.TotalBytes, "%s")
	add(m.NonzeroBytes, "%s not zero")
	add(m.SentBytes, "%s sent")
	if n := len(m.Rounds); n > 0 {
		out = append(out, counted(int64(n), "round"))
	}
	if m.Faults != nil && *m.Faults > 0 {
		s := counted(*m.Faults, "demand fault")
		if m.FaultUS != nil {
			s += fmt.Sprintf(" (median %.0f us, 99 %% within %.0f us, longest %.0f us)", m.FaultUS.P50, m.FaultUS.P99, m.FaultUS.Max)
		}
		out = append(out, s)
	}
	if m.PrepagedPages != nil {
		out = append(out, counted(*m.PrepagedPages, "page")+" pre-paged")
	}
	if m.ReusedPages != nil {
		out = append(out, counted(*m.ReusedPages, "page")+" reused")
	}
	if m.ThrottlePct != nil && *m.ThrottlePct > 0 {
		out = append(out, fmt.Sprintf("guest throttled by %d %%", *m.ThrottlePct))
	}
	return strings.Join(out, ", ")
}

func (d ReportDisk) text() string {
	s := showBytes(d.Bytes)
	if d.SentBytes != nil {
		s += ", " + showBytes(*d.SentBytes) + " sent"
	}
	if d.MS != nil {
		s += " in " + showMS(*d.MS)
	}
	if d.Way != "" {
		s += ", by " + d.Way
	}
	switch d.Writes {
	case WritesBackground:
		s += ", guest writes in the background"
	case WritesBlocking:
		s += ", guest writes waited for the destination"
	}
	return s
}

func (r Report) textPhases(t *page) {
	if len(r.Phases) == 0 {
		return
	}
	longest := 0.0
	for _, p := range r.Phases {
		longest = max(longest, p.MS)
	}
	t.blank()
	t.line("  %-12s %10s %10s", "phase", "start", "took")
	room := min(t.width-40, 40)
	for _, p := range r.Phases {
		bar := ""
		if longest > 0 && room > 0 {
			bar = strings.Repeat("#", int(math.Round(p.MS/longest*float64(room))))
		}
		t.line("  %-12s %10s %10s  %s", p.Name, showMS(p.StartMS), showMS(p.MS), bar)
	}
}

// textRounds shows the first and the last few rounds of many.
func (r Report) textRounds(t *page) {
	if r.RAM == nil || len(r.RAM.Rounds) < 2 {
		return
	}
	const head, tail = 4, 4
	t.blank()
	t.line("  %-12s %10s %10s %12s", "round", "sent", "took", "pages")
	n := len(r.RAM.Rounds)
	for i, x := range r.RAM.Rounds {
		if n > head+tail+1 && i >= head && i < n-tail {
			if i == head {
				t.line("  %-12s", "...")
			}
			continue
		}
		t.line("  %-12d %10s %10s %12d", i+1, showBytes(x.Bytes), showMS(x.MS), x.Pages)
	}
}

// textPredicted shows what was predicted of the strategy that was taken beside what came, and of others below; nothing, where
// only others were predicted, since those are not what came of this one.
func (r Report) textPredicted(t *page) {
	own, ok := r.Predicted[r.Strategy]
	if !ok {
		return
	}
	t.blank()
	known := func(v *float64) string {
		if v == nil {
			return "?"
		}
		return showMS(*v)
	}
	t.line("  %-20s %10s %10s %10s", "", "total", "downtime", "sent")
	row := func(name string, p ReportPoint) {
		t.line("  %-20s %10s %10s %10s", name, showMS(p.TotalMS), known(p.DowntimeMS), showBytes(p.SentBytes))
	}
	row("predicted, "+string(r.Strategy), own.ReportPoint)
	if own.Low != nil && own.High != nil {
		row("  at least", *own.Low)
		row("  at most", *own.High)
	}
	sent := "?"
	if n := r.Sent(); n != nil {
		sent = showBytes(*n)
	}
	t.line("  %-20s %10s %10s %10s", "actual, "+string(r.Strategy), known(r.TotalMS), known(r.DowntimeMS), sent)
	for _, s := range slices.Sorted(maps.Keys(r.Predicted)) {
		if s != r.Strategy {
			row("else, "+string(s), r.Predicted[s].ReportPoint)
		}
	}
}

// Sent is what RAM and disks took of the link together; nil if a part of it is not known.
func (r Report) Sent() *int64 {
	if r.RAM == nil || r.RAM.SentBytes == nil {
		return nil
	}
	sum := *r.RAM.SentBytes
	for _, d := range r.Disks {
		if d.SentBytes == nil {
			return nil
		}
		sum += *d.SentBytes
	}
	return &sum
}

func (r Report) textNotes(t *page) {
	if len(r.Notes) == 0 {
		return
	}
	t.blank()
	for _, n := range r.Notes {
		t.wrapped("  - ", "    ", n)
	}
}

// page is text of a given width.
type page struct {
	strings.Builder
	width int
}

func (t *page) blank() { t.WriteByte('\n') }

func (t *page) line(format string, a ...any) {
	t.WriteString(strings.TrimRight(fmt.Sprintf(format, a...), " ") + "\n")
}

func (t *page) fact(name, text string) {
	if text != "" {
		t.wrapped(fmt.Sprintf("  %-10s ", name), strings.Repeat(" ", 13), text)
	}
}

// wrapped writes text in lines of the page's width, the first after first, the others after rest. A word longer than a
// line is cut.
func (t *page) wrapped(first, rest, text string) {
	line, empty := first, true
	flush := func() {
		t.WriteString(strings.TrimRight(line, " ") + "\n")
		line, empty = rest, true
	}
	for _, w := range strings.Fields(text) {
		if !empty && columns(line)+1+columns(w) > t.width {
			flush()
		}
		for columns(line)+columns(w) > t.width && empty {
			cut := []rune(w)
			n := max(1, t.width-columns(line))
			line += string(cut[:n])
			w = string(cut[n:])
			flush()
		}
		if w == "" {
			continue
		}
		if !empty {
			line += " "
		}
		line, empty = line+w, false
	}
	if !empty || line == first {
		flush()
	}
}

func columns(s string) int { return len([]rune(s)) }

func counted(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// showMS writes milliseconds as a person would: 0.8 ms, 43 ms, 1.25 s, 3 min 20 s.
func showMS(v float64) string {
	switch {
	case v < 9.95:
		return fmt.Sprintf("%.1f ms", v)
	case v < 999.5:
		return fmt.Sprintf("%.0f ms", v)
	case v < 9995:
		return fmt.Sprintf("%.2f s", v/1000)
	case v < 59950:
		return fmt.Sprintf("%.1f s", v/1000)
	}
	d := time.Duration(v * float64(time.Millisecond)).Round(time.Second)
	if d < time.Hour {
		return fmt.Sprintf("%d min %02d s", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%d h %02d min", int(d.Hours()), int(d.Minutes())%60)
}

// showBytes writes a size with three digits in binary units.
func showBytes(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	v, u := float64(n), 0
	for v >= 999.5 && u < len(units)-1 {
		v, u = v/1024, u+1
	}
	switch {
	case u == 0 || v >= 99.95 || v == math.Trunc(v):
		return fmt.Sprintf("%.0f %s", v, units[u])
	case v >= 9.995:
		return fmt.Sprintf("%.1f %s", v, units[u])
	}
	return fmt.Sprintf("%.2f %s", v, units[u])
}
