package hosttest

import (
	"context"
	"errors"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// fakeHost tells states in turn; the last one stays.
type fakeHost struct {
	migrate.Host
	states []migrate.RunState
	err    error
}

func (f *fakeHost) State(context.Context, string) (migrate.GuestState, error) {
	s := f.states[0]
	if len(f.states) > 1 {
		f.states = f.states[1:]
	}
	return migrate.GuestState{Run: s}, f.err
}

func TestTwoRunners(t *testing.T) {
	run, paused, post := migrate.RunRunning, migrate.RunPaused, migrate.RunPostcopy
	for name, c := range map[string]struct {
		src, dst *fakeHost
		want     bool
	}{
		"both run":                       {&fakeHost{states: []migrate.RunState{run}}, &fakeHost{states: []migrate.RunState{run}}, true},
		"both run, one still fetching":   {&fakeHost{states: []migrate.RunState{run}}, &fakeHost{states: []migrate.RunState{post}}, true},
		"source only":                    {&fakeHost{states: []migrate.RunState{run}}, &fakeHost{states: []migrate.RunState{paused}}, false},
		"destination only":               {&fakeHost{states: []migrate.RunState{migrate.RunMigrated}}, &fakeHost{states: []migrate.RunState{run}}, false},
		"it moved between two questions": {&fakeHost{states: []migrate.RunState{run, paused}}, &fakeHost{states: []migrate.RunState{run}}, false},
		"a source that serves":           {&fakeHost{states: []migrate.RunState{post}}, &fakeHost{states: []migrate.RunState{post}}, false},
		"no answer":                      {&fakeHost{states: []migrate.RunState{run}, err: errors.New("gone")}, &fakeHost{states: []migrate.RunState{run}}, false},
	} {
		if got := twoRunners(t.Context(), c.src, c.dst, "guest") != nil; got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// TestRuns: a state stands for running CPUs unless its reason says that they have stopped.
func TestRuns(t *testing.T) {
	for _, c := range []struct {
		state migrate.GuestState
		want  bool
	}{
		{migrate.GuestState{Run: migrate.RunRunning, Reason: "running/migrated"}, true},
		{migrate.GuestState{Run: migrate.RunRunning, Reason: "shutting down"}, false},
		{migrate.GuestState{Run: migrate.RunPostcopy, Reason: "running/postcopy"}, true},
		{migrate.GuestState{Run: migrate.RunPostcopyPaused, Reason: "running/postcopy-failed"}, true},
		{migrate.GuestState{Run: migrate.RunPostcopy, Reason: "paused/postcopy"}, false},
		{migrate.GuestState{Run: migrate.RunIncoming}, false},
	} {
		if got := runs(c.state); got != c.want {
			t.Errorf("%s (%s): %t", c.state.Run, c.state.Reason, got)
		}
	}
}

func TestCasesNeedAbilitiesThatExist(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range cases() {
		if seen[c.name] || c.run == nil || c.name == "" {
			t.Errorf("case %q is there twice or does nothing", c.name)
		}
		seen[c.name] = true
		if m := c.missing(Abilities{Postcopy: true, Recovery: true}); m != "" {
			t.Errorf("%s needs %s", c.name, m)
		}
		if c.postcopy && c.missing(Abilities{}) == "" {
			t.Errorf("%s runs without its ability", c.name)
		}
	}
}
