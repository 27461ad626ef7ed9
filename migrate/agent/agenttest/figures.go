package agenttest

import (
	"reflect"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

func figures(t *testing.T, reach Reach) {
	f := &Fake{Stats: agent.SourceStats{SentBytes: 1 << 60, StreamBytes: 7}}
	a := reach(t, f)
	s, d := source(t, a), dest(t, a)
	if st, err := s.Stats(t.Context()); err != nil || st != f.Stats {
		t.Errorf("%+v, %v", st, err)
	}
	for name, err := range map[string]error{"StreamUp": s.StreamUp(t.Context()), "Pass": d.Pass(t.Context(), ram.NewSet(blocks())),
		"Tune": d.Tune(t.Context(), -1, 1<<50), "Release": d.Release(t.Context())} {
		if _, asked := f.Last(name); err != nil || !asked {
			t.Errorf("%s: %v, asked %t", name, err, asked)
		}
	}
	if got, _ := f.Last("Tune"); got.With != (Tuned{-1, 1 << 50}) {
		t.Errorf("tuned to %+v", got.With)
	}
}

func progress(t *testing.T, reach Reach) {
	f := &Fake{Steps: []agent.Progress{{Pages: 1, Remaining: 9}, {Pages: 5, Remaining: 5}, {Pages: 10, ZeroPages: 3, Bytes: 1 << 40,
		Bandwidth: 5, Faults: 2, LocalFaults: 1, FaultUS: &agent.Latency{P50: 1.5, P99: 2, Max: 3}, Prepaged: 4}}}
	f.Steps[2].Reused = new(int64(7))
	a := reach(t, f)
	s, d := source(t, a), dest(t, a)
	for name, call := range map[string]func(func(agent.Progress)) (agent.Progress, error){
		"Fetch": func(tell func(agent.Progress)) (agent.Progress, error) {
			return d.Fetch(t.Context(), ram.NewSet(blocks()), tell)
		},
		"Page": func(tell func(agent.Progress)) (agent.Progress, error) { return d.Page(t.Context(), tell) },
		"Keep": func(tell func(agent.Progress)) (agent.Progress, error) { return s.Keep(t.Context(), tell) },
	} {
		var told []agent.Progress // no lock: progress is told of before the call returns, and one at a time
		last, err := call(func(p agent.Progress) { told = append(told, p) })
		if err != nil || !reflect.DeepEqual(last, f.Steps[2]) {
			t.Errorf("%s: %+v, %v", name, last, err)
		}
		for i, p := range told {
			if i > 0 && p.Pages <= told[i-1].Pages {
				t.Errorf("%s: progress goes back, %+v", name, told)
			}
		}
		if len(told) == 0 || !reflect.DeepEqual(told[len(told)-1], f.Steps[2]) {
			t.Errorf("%s: told %+v", name, told)
		}
	}
}
