package agent_test

import (
	"context"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// idle is an agent that takes no time.
type idle struct {
	agent.Agent
	set ram.Set
}

func (i idle) Hello(context.Context) (agent.Identity, error) { return agent.Identity{}, nil }
func (i idle) OpenSource(context.Context, agent.SourceSpec) (agent.Source, error) {
	return idleSource{set: i.set}, nil
}
func (i idle) OpenDest(context.Context, agent.DestSpec) (agent.Dest, error) { return idleDest{}, nil }
func (i idle) Close() error                                                 { return nil }

type idleSource struct {
	agent.Source
	set ram.Set
}

func (s idleSource) Harvest(context.Context) (agent.Harvest, error) {
	return agent.Harvest{Dirty: s.set}, nil
}

type idleDest struct{ agent.Dest }

func (idleDest) Addr() string                                           { return "" }
func (idleDest) Switch(context.Context, ram.Set, []agent.PageRef) error { return nil }
func (idleDest) Release(context.Context) error                          { return nil }

// What stands within the guest's pause, each over a unix socket: no set, few dirty pages of 64 GiB, and every other one.
func BenchmarkCalls(b *testing.B) {
	few, half := ram.NewSet(bigBlocks()), ram.NewSet(bigBlocks())
	for i := range 1000 {
		few[0].Set(i * 16000)
	}
	for i := 0; i < half[0].Len(); i += 2 {
		half[0].Set(i)
	}
	hot := make([]agent.PageRef, 20000)
	for i := range hot {
		hot[i].Page = i * 7919 % half[0].Len()
	}
	for name, impl := range map[string]idle{"few": {set: few}, "half": {set: half}} {
		c := overSocket(b, impl)
		s, err := c.OpenSource(b.Context(), agent.SourceSpec{Regions: bigRegions()})
		if err != nil {
			b.Fatal(err)
		}
		d, err := c.OpenDest(b.Context(), agent.DestSpec{Regions: bigRegions()})
		if err != nil {
			b.Fatal(err)
		}
		for call, f := range map[string]func() error{
			"release":    func() error { return d.Release(b.Context()) },
			"harvest":    func() error { _, err := s.Harvest(b.Context()); return err },
			"switch":     func() error { return d.Switch(b.Context(), impl.set, nil) },
			"switch+hot": func() error { return d.Switch(b.Context(), impl.set, hot) },
		} {
			b.Run(name+"/"+call, func(b *testing.B) {
				for b.Loop() {
					if err := f(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
