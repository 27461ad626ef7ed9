package engine

import (
	"fmt"
	"strings"
	"time"
)

// stopwatch splits the pause, as far as it is ours, into its parts.
type stopwatch struct {
	last  time.Time
	parts []string
}

func (w *stopwatch) start() { w.last = time.Now() }

// lap books the time since the last one under a name.
func (w *stopwatch) lap(name string) {
	now := time.Now()
	w.parts = append(w.parts, fmt.Sprintf("%s %.1f ms", name, float64(now.Sub(w.last))/float64(time.Millisecond)))
	w.last = now
}

func (w *stopwatch) String() string { return "of the pause: " + strings.Join(w.parts, ", ") }
