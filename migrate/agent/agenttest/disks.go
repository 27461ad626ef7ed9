package agenttest

import (
	"context"
	"errors"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmmigrate/vmmigrate/migrate/agent"
)

var (
	_ agent.DiskSource = (*fakeDiskSource)(nil)
	_ agent.DiskDest   = (*fakeDiskDest)(nil)
)

// OpenDiskSource notes the spec.
func (f *Fake) OpenDiskSource(ctx context.Context, spec agent.DiskSourceSpec) (agent.DiskSource, error) {
	if err := f.ask(ctx, "OpenDiskSource", spec); err != nil {
		return nil, err
	}
	return &fakeDiskSource{f}, nil
}

// OpenDiskDest notes the spec. The end listens, it says, where the spec's link says.
func (f *Fake) OpenDiskDest(ctx context.Context, spec agent.DiskDestSpec) (agent.DiskDest, error) {
	if err := f.ask(ctx, "OpenDiskDest", spec); err != nil {
		return nil, err
	}
	return &fakeDiskDest{f, spec.Link.Addr}, nil
}

type fakeDiskSource struct{ f *Fake }

func (s *fakeDiskSource) Freeze(ctx context.Context) error { return s.f.ask(ctx, "Freeze", nil) }
func (s *fakeDiskSource) Close(ctx context.Context) error {
	return s.f.ask(ctx, "CloseDiskSource", nil)
}

type fakeDiskDest struct {
	f    *Fake
	addr string
}

func (d *fakeDiskDest) Addr() string                     { return d.addr }
func (d *fakeDiskDest) Ready(ctx context.Context) error  { return d.f.ask(ctx, "DisksReady", nil) }
func (d *fakeDiskDest) Thaw(ctx context.Context) error   { return d.f.ask(ctx, "Thaw", nil) }
func (d *fakeDiskDest) Settle(ctx context.Context) error { return d.f.ask(ctx, "Settle", nil) }

func (d *fakeDiskDest) Fetch(ctx context.Context, progress func(agent.Progress)) (agent.Progress, error) {
	return d.f.proceed(ctx, "FetchDisks", nil, progress)
}

func (d *fakeDiskDest) Tune(ctx context.Context, bandwidth int64) error {
	return d.f.ask(ctx, "TuneDisks", bandwidth)
}

func (d *fakeDiskDest) Close(ctx context.Context, how agent.DiskClosing) error {
	return d.f.ask(ctx, "CloseDiskDest", how)
}

func diskSourceSpec() agent.DiskSourceSpec {
	return agent.DiskSourceSpec{Migration: "m-1", Mode: agent.DisksMirror, Link: agent.Link{Addr: "b:1", Peer: []byte{1, 0, 255}, Token: "secret"},
		Resume: true, Disks: []agent.SourceDisk{{Target: "vda", Path: "/i/a", Format: "qcow2", Size: 1 << 40, Live: "/l", Mirror: "/m"}}}
}

func diskDestSpec() agent.DiskDestSpec {
	return agent.DiskDestSpec{Migration: "m-1", Mode: agent.DisksAfter, Guest: "web", Link: agent.Link{Addr: "127.0.0.1:4711", Token: "secret"},
		Bandwidth: 1 << 40, Resume: true, Disks: []agent.DestDisk{{Target: "vda", Size: 512, Socket: "/s", Cache: "/c", Path: "/p", Format: "raw", Reuse: true}}}
}

func diskEnds(t *testing.T, a agent.Agent) (agent.DiskSource, agent.DiskDest) {
	t.Helper()
	s, err := a.OpenDiskSource(t.Context(), diskSourceSpec())
	if err != nil {
		t.Fatal(err)
	}
	d, err := a.OpenDiskDest(t.Context(), diskDestSpec())
	if err != nil {
		t.Fatal(err)
	}
	return s, d
}

// diskCalls are the calls of ends for disks, by name.
func diskCalls(t *testing.T, a agent.Agent) map[string]func() error {
	t.Helper()
	ds, dd := diskEnds(t, a)
	return map[string]func() error{
		"OpenDiskSource":  func() error { _, err := a.OpenDiskSource(t.Context(), diskSourceSpec()); return err },
		"OpenDiskDest":    func() error { _, err := a.OpenDiskDest(t.Context(), diskDestSpec()); return err },
		"Freeze":          func() error { return ds.Freeze(t.Context()) },
		"DisksReady":      func() error { return dd.Ready(t.Context()) },
		"Thaw":            func() error { return dd.Thaw(t.Context()) },
		"FetchDisks":      func() error { _, err := dd.Fetch(t.Context(), nil); return err },
		"TuneDisks":       func() error { return dd.Tune(t.Context(), 0) },
		"Settle":          func() error { return dd.Settle(t.Context()) },
		"CloseDiskSource": func() error { return ds.Close(t.Context()) },
		"CloseDiskDest":   func() error { return dd.Close(t.Context(), agent.DiskClosing{}) },
	}
}

// What is asked of ends for disks, and what is answered, arrives whole.
func disks(t *testing.T, reach Reach) {
	steps := []agent.Progress{{Bytes: 1}, {Bytes: 1 << 62, Remaining: 5, Bandwidth: 7, Disks: []agent.DiskProgress{{Target: "vda", Size: 1 << 50,
		Data: 9, Fetched: 8, Reused: 7, Mirrored: 6, Remaining: 5, Reads: 4, ReadUS: &agent.Latency{P50: 1, P99: 2, Max: 3}}}}}
	f := &Fake{Steps: steps}
	a := reach(t, f)
	s, d := diskEnds(t, a)
	if d.Addr() != "127.0.0.1:4711" {
		t.Errorf("it listens on %q", d.Addr())
	}
	p, err := d.Fetch(t.Context(), nil)
	if err != nil || !reflect.DeepEqual(p, steps[1]) {
		t.Error(err, cmp.Diff(steps[1], p))
	}
	how := agent.DiskClosing{Abandon: true, Done: true}
	if err := errors.Join(s.Freeze(t.Context()), d.Ready(t.Context()), d.Thaw(t.Context()), d.Tune(t.Context(), 1<<50), d.Settle(t.Context()),
		d.Close(t.Context(), how), d.Close(t.Context(), how), s.Close(t.Context()), s.Close(t.Context())); err != nil {
		t.Error(err)
	}
	for method, want := range map[string]any{"OpenDiskSource": diskSourceSpec(), "OpenDiskDest": diskDestSpec(), "TuneDisks": int64(1 << 50),
		"CloseDiskDest": how} {
		if got, _ := f.Last(method); !reflect.DeepEqual(got.With, want) {
			t.Errorf("%s: %s", method, cmp.Diff(want, got.With))
		}
	}
}
