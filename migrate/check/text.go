package check

import (
	"fmt"
	"io"
	"strings"
)

// The columns of the text form: severity, side, and what is left of 80 for the rest.
const (
	textWidth   = 80
	severityCol = 9
	sideCol     = 13
)

// WriteText writes the result for a person: one block per finding, severity first, the fix on a line of its own, no
// line longer than 80 columns unless a single word is, and the verdict last.
func (r Result) WriteText(w io.Writer) error {
	var b strings.Builder
	for _, f := range r.Findings {
		writeFinding(&b, f)
	}
	if len(r.Findings) > 0 {
		b.WriteByte('\n')
	}
	b.WriteString(r.verdict())
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write check result: %w", err)
	}
	return nil
}

func writeFinding(b *strings.Builder, f Finding) {
	head := fmt.Sprintf("%-*s%-*s", severityCol, f.Severity, sideCol, f.Side)
	hang := strings.Repeat(" ", severityCol+sideCol)
	fill(b, head, hang, f.Title+" ["+f.ID+"]")
	if f.Detail != "" {
		fill(b, hang, hang, f.Detail)
	}
	if f.Fix != "" {
		indent := strings.Repeat(" ", severityCol)
		fill(b, indent+"fix: ", indent+"     ", f.Fix)
	}
}

// fill writes text after first, broken between words at the width; further lines start with rest.
func fill(b *strings.Builder, first, rest, text string) {
	col := len([]rune(first))
	b.WriteString(first)
	empty := true
	for word := range strings.FieldsSeq(text) {
		n := len([]rune(word))
		if !empty && col+1+n > textWidth {
			b.WriteString("\n" + rest)
			col, empty = len([]rune(rest)), true
		}
		if !empty {
			b.WriteByte(' ')
			col++
		}
		b.WriteString(word)
		col, empty = col+n, false
	}
	b.WriteByte('\n')
}

// verdict is the last lines: may it go, and how.
func (r Result) verdict() string {
	var b strings.Builder
	word := "ready: "
	if r.Blocked() {
		word = "blocked: "
	}
	counts := make([]string, 0, 3)
	for _, s := range []Severity{Blocker, Warning, Unknown} {
		if n := r.Count(s); n > 0 {
			counts = append(counts, count(n, s))
		}
	}
	if len(counts) == 0 {
		counts = []string{"nothing speaks against it"}
	}
	fill(&b, word, strings.Repeat(" ", len(word)), strings.Join(counts, ", "))
	if r.Engine != "" {
		fill(&b, "engine: ", "        ", fmt.Sprintf("%s (%s)", r.Engine, r.EngineReason))
	}
	if r.Strategy != "" {
		fill(&b, "strategy: ", "          ", fmt.Sprintf("%s (%s)", r.Strategy, r.Reason))
	}
	if r.Work != nil {
		fill(&b, "moves: ", "       ", r.Work.text())
	}
	return b.String()
}

// count spells a number of findings.
func count(n int, s Severity) string {
	switch {
	case s == Unknown:
		return fmt.Sprintf("%d could not be told", n)
	case n == 1:
		return "1 " + string(s)
	}
	return fmt.Sprintf("%d %ss", n, s)
}
