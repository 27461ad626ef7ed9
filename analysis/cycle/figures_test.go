package cycle

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/analysis/sample"
	"github.com/vmmigrate/vmmigrate/analysis/synth"
)

func almas(s sample.Series) (Result, error) {
	r, _, err := DetectALMA(s, ALMAOptions{})
	return r, err
}

// row is a line of the table of figures.
func (y tally) row(name string) string {
	share := func(a, b int) string {
		if b == 0 {
			return "–"
		}
		return fmt.Sprintf("%.1f %%", 100*float64(a)/float64(b))
	}
	return fmt.Sprintf("| %s | %d | %s | %s | %.2f %% | %.1f %% | %s | %d |", name, y.cyclic, share(y.found, y.cyclic), share(y.right, y.cyclic),
		100*y.median(), 100*y.quantile(0.9), share(y.bothFound, y.both), y.extra)
}

// figures is the table of a detector over cases, as the README has it.
func figures(name string, find detector, cases []synth.Case) (string, error) {
	var all tally
	by := map[string]*tally{}
	var order []string
	group := func(key string, c synth.Case, r Result) {
		if by[key] == nil {
			by[key] = &tally{}
			order = append(order, key)
		}
		by[key].add(c, r)
	}
	for _, c := range cases {
		r, err := find(c.Series)
		if err != nil {
			return "", fmt.Errorf("%v: %w", c, err)
		}
		all.add(c, r)
		if len(c.Periods) == 0 {
			group("without: "+c.Kind, c, r)
			continue
		}
		group(fmt.Sprintf("noise %3.0f %%", 100*c.Noise), c, r)
		group("shape: "+c.Kind, c, r)
	}
	slices.Sort(order)
	var b strings.Builder
	fmt.Fprintf(&b, "%s: F1 %.3f, median period error %.2f %%, %d of %d acyclic series called cyclic (%.1f %%)\n\n", name, all.f1(), 100*all.median(),
		all.wrong, all.acyclic, 100*all.falseAlarms())
	b.WriteString("| series | n | called cyclic | period within 5 % | median error | 90th percentile | both of two found | false further cycles |\n|---|---|---|---|---|---|---|---|\n")
	for _, key := range order {
		if y := by[key]; y.cyclic > 0 {
			b.WriteString(y.row(key) + "\n")
		}
	}
	b.WriteString(all.row("all") + "\n\n| without a cycle | n | called cyclic |\n|---|---|---|\n")
	for _, key := range order {
		if y := by[key]; y.acyclic > 0 {
			fmt.Fprintf(&b, "| %s | %d | %d |\n", strings.TrimPrefix(key, "without: "), y.acyclic, y.wrong)
		}
	}
	return b.String(), nil
}

// BenchmarkFigures prints how often cycles are found, by noise and shape, for both ways. VMMIGRATE_FIGURES says how many series
// with a cycle there shall be, and as many without; VMMIGRATE_FIGURES_SEED is the first seed, which is held out unless given.
func BenchmarkFigures(b *testing.B) {
	n, seed := 20, heldOut
	for name, to := range map[string]*int{"VMMIGRATE_FIGURES": &n, "VMMIGRATE_FIGURES_SEED": &seed} {
		if v := os.Getenv(name); v != "" {
			var err error
			if *to, err = strconv.Atoi(v); err != nil {
				b.Fatalf("%s: %v", name, err)
			}
		}
	}
	cases := synth.Set(uint64(seed), n)
	for name, find := range map[string]detector{"ours": ours, "ALMA's": almas} {
		b.Run(name, func(b *testing.B) {
			table := ""
			for b.Loop() {
				var err error
				if table, err = figures(name, find, cases); err != nil {
					b.Fatal(err)
				}
			}
			if os.Getenv("VMMIGRATE_FIGURES") != "" {
				b.Log("\n" + table)
			}
		})
	}
}
