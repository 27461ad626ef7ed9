package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// result is a tier with what came of it.
type result struct {
	tier  tier
	tally *tally
}

// report prints failures, skips and the table, and returns the closing line.
func report(w io.Writer, results []result) string {
	for _, r := range results {
		for _, f := range r.tally.failures {
			fmt.Fprintf(w, "\n--- FAIL %s %s %s\n%s", r.tier.name, short(f.pkg), f.test, indent(f.output))
		}
	}
	reportSkips(w, results)
	fmt.Fprintf(w, "\n%-26s %8s %8s %8s %9s\n", "tier", "passed", "failed", "skipped", "time")
	var passed, failed, skipped int
	var elapsed time.Duration
	for _, r := range results {
		t := r.tally
		row(w, r.tier.name+" "+r.tier.about, t.passed, t.failed, t.skipped, t.elapsed)
		passed, failed, skipped = passed+t.passed, failed+t.failed, skipped+t.skipped
		elapsed += t.elapsed
	}
	row(w, "all", passed, failed, skipped, elapsed)
	for _, r := range results {
		for _, f := range r.tally.failures {
			fmt.Fprintf(w, "failed: %s %s %s\n", r.tier.name, short(f.pkg), f.test)
		}
	}
	line := fmt.Sprintf("%d passed, %d failed, %d skipped", passed, failed, skipped)
	fmt.Fprintf(w, "\n%s\n", line)
	return line
}

// reportSkips prints each reason once, with how many tests gave it.
func reportSkips(w io.Writer, results []result) {
	for _, r := range results {
		for _, why := range slices.Sorted(maps.Keys(r.tally.skips)) {
			fmt.Fprintf(w, "skipped: %s, %d tests: %s\n", r.tier.name, r.tally.skips[why], why)
		}
	}
}

func row(w io.Writer, name string, passed, failed, skipped int, elapsed time.Duration) {
	fmt.Fprintf(w, "%-26s %8d %8d %8d %8.1fs\n", name, passed, failed, skipped, elapsed.Seconds())
}

// blameLines is how much of what a failed test said is shown at once.
const blameLines = 8

// blame prints what failed in pkg with the first words of it: a run that is cut
// off, or whose end is not kept, says then what was wrong.
func (t *tally) blame(w io.Writer, pkg string) {
	for _, f := range t.failures {
		if f.pkg != pkg {
			continue
		}
		fmt.Fprintf(w, "      failed: %s\n", f.test)
		shown := 0
		for line := range strings.Lines(f.output) {
			if frameLine.MatchString(line) || shown == blameLines {
				continue
			}
			shown++
			fmt.Fprintf(w, "        %s\n", strings.TrimSpace(line))
		}
	}
}

// short leaves out of an import path what all of ours begin with.
func short(pkg string) string {
	return strings.TrimPrefix(pkg, "github.com/vmmigrate/vmmigrate/")
}

// indent moves the output of a test to the right, so that its frame stands out.
func indent(output string) string {
	var b strings.Builder
	for line := range strings.Lines(output) {
		b.WriteString("    ")
		b.WriteString(strings.TrimRight(line, "\n"))
		b.WriteByte('\n')
	}
	return b.String()
}
