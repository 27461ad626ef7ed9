package cycle

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/sample"
)

// words says what was found, or why nothing was.
func words(cycles []Cycle, taken []chosen, all []found, s sample.Series) string {
	if len(cycles) == 0 {
		return none(all, s)
	}
	var parts []string
	for i, c := range cycles {
		parts = append(parts, fmt.Sprintf("every %s (seen %.0f times, %.0f %% of the variation)", Short(c.Period), taken[i].cycles, 100*c.Strength))
	}
	return "it repeats " + strings.Join(parts, ", and ")
}

// none says why there is no cycle, by the candidate that came nearest.
func none(all []found, s sample.Series) string {
	all = slices.DeleteFunc(all, func(f found) bool { return f.strength < rounding })
	if len(all) == 0 {
		return fmt.Sprintf("nothing in it comes back at equal distances three times within %s", Short(s.Span()))
	}
	best := all[0]
	for _, f := range all {
		if f.score() > best.score() {
			best = f
		}
	}
	period := Short(scaled(best.steps(), s.Step))
	switch {
	case best.strength < faint:
		return fmt.Sprintf("%s is the likeliest period, but it explains only %.1g %% of the variation", period, 100*best.strength)
	case best.twice < 0.3*best.once:
		return fmt.Sprintf("%s is the likeliest period, but after two of them nothing is left of the likeness", period)
	case best.cycles < 2*observed:
		return fmt.Sprintf("%s is the likeliest period, but it was seen only %.0f times, which is too few to tell it from chance", period, best.cycles)
	default:
		return fmt.Sprintf("%s is the likeliest period, but cycles are hardly more alike (%.2f) than chance makes them", period, best.once)
	}
}

// Short writes a duration to three digits: 15.2 s, 59.8 min, 24 h.
func Short(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%.3g ms", float64(d)/float64(time.Millisecond))
	case d < 2*time.Minute:
		return fmt.Sprintf("%.3g s", d.Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%.3g min", d.Minutes())
	case d < 72*time.Hour:
		return fmt.Sprintf("%.3g h", d.Hours())
	default:
		return fmt.Sprintf("%.3g days", d.Hours()/24)
	}
}
