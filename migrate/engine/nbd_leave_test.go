package engine

import (
	"strings"
	"testing"
	"testing/synctest"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// The source's agent hears that nobody comes for its pages after a copy that was taken back, without an Undo: past the commit
// both ends are asked instead. While the destination may run the guest nobody tells it to go.
func TestTheSourcesAgentIsToldToGo(t *testing.T) {
	for fail, told := range map[string]bool{"still": true, "punch": true, "switch": true, "release": false, "page": false} {
		t.Run(fail, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.fail[fail] = errBoom
				w.never = fail == "still"
				s := w.session(migrate.Params{Strategy: migrate.StrategyHybrid})
				if err := steps(t.Context(), s, false); err == nil {
					t.Fatal("it went well")
				}
				if calls := w.called(); strings.Contains(calls, "close-source") {
					t.Fatalf("it was told within Copy: %s", calls)
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
				if calls := w.called(); strings.Contains(calls, "close-source") != told {
					t.Errorf("told to go: %t; %s", !told, calls)
				}
			})
		})
	}
}
