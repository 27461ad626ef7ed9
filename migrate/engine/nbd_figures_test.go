package engine

import (
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/precopy"
)

// TestNBDNonzero: how much RAM is not zero is told once each page has come once, and never of a part.
func TestNBDNonzero(t *testing.T) {
	const page = 4096
	whole := agent.Progress{Pages: 30}
	for _, c := range []struct {
		name string
		do   func(*figures)
		last agent.Progress
		want int64 // pages; 0 is not known
	}{
		{"while the first round is on", func(*figures) {}, agent.Progress{Pages: 10, Remaining: page}, 0},
		{"after the first round", func(f *figures) { f.observe(precopy.Round{Number: 1, Fetched: precopy.Fetched{Pages: 20}}) }, whole, 20},
		{"after the second", func(f *figures) {
			f.observe(precopy.Round{Number: 1, Fetched: precopy.Fetched{Pages: 20}})
			f.observe(precopy.Round{Number: 2, Fetched: precopy.Fetched{Pages: 3}})
		}, whole, 20},
		{"while paging", (*figures).paging, agent.Progress{Pages: 10, Remaining: page}, 0},
		{"paged in", (*figures).paging, whole, 30},
		{"taken up again", func(f *figures) {
			f.paging()
			f.cutShort()
		}, whole, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var f figures
			c.do(&f)
			got := int64(0)
			if n := f.take(c.last, 100*page, page).Nonzero; n != nil {
				got = *n / page
			}
			if got != c.want {
				t.Errorf("%d pages are not zero, want %d", got, c.want)
			}
		})
	}
}
