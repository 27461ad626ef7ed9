package engine

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/agent/agenttest"
	"github.com/vmmigrate/vmmigrate/migrate/storage"
)

// imageWorld is a guest with a disk, on two hosts with agents.
type imageWorld struct {
	*script
	here, there agenttest.Fake
	noAgent     error
	kept        [][]storage.Made
	keepErr     error
}

type imageSource struct {
	fakeSource
	w *imageWorld
}

func (s imageSource) Place(context.Context) (migrate.Place, error) {
	return migrate.Place{Name: "a"}, nil
}
func (s imageSource) Domain(context.Context, string) (migrate.DomainFacts, error) {
	return migrate.DomainFacts{Disks: []migrate.Disk{{Target: "vda", Kind: "file", Path: "/i/web", Format: "qcow2", Capacity: 1 << 30},
		{Target: "sda", CDROM: true, Path: "/i/cd"}}}, nil
}
func (s imageSource) MapDisks(_ context.Context, _ string, p migrate.Params) (migrate.Params, error) {
	for _, m := range p.Disks {
		p.DestinationXML = "<domain type='kvm'><devices><disk type='file'><driver type='" + m.Format + "'/><source file='" + m.Path +
			"'/><target dev='" + m.Target + "'/></disk></devices></domain>"
	}
	return p, s.call("map")
}

type imageDest struct{ fakeDest }

func (imageDest) Place(context.Context) (migrate.Place, error) {
	return migrate.Place{Name: "b"}, nil
}

func newImageWorld() *imageWorld {
	w := &imageWorld{script: newScript()}
	w.here.Images = map[string]storage.Image{"/i/web": {Path: "/i/web", Kind: storage.KindFile, Layers: []storage.Layer{
		{Path: "/i/web", Format: "qcow2", VirtualSize: 1 << 30, Allocated: 1000, ClusterSize: 1 << 16, Backing: "/i/base", BackingFormat: "raw"},
		{Path: "/i/base", Format: "raw", VirtualSize: 1 << 30, Allocated: 5000}}}}
	w.there.Images = map[string]storage.Image{}
	w.there.Made = storage.Made{Target: "vda", Path: "/i/web", Inode: 7}
	return w
}

func (w *imageWorld) open(t *testing.T, p migrate.Params) migrate.Session {
	t.Helper()
	j := migrate.Job{ID: "m-1", Domain: "web", Params: p, Sink: fakeSink{w.script},
		Source: imageSource{fakeSource{fakeHost{w.script}, make(chan struct{}), new(sync.Once)}, w}, Dest: imageDest{fakeDest{fakeHost{w.script}}},
		Commit: func(context.Context) error { return nil },
		Keep: func(_ context.Context, m []storage.Made) error {
			w.kept = append(w.kept, slices.Clone(m))
			return w.keepErr
		}}
	n := &Native{Poll: time.Millisecond, Undo: 2 * time.Second, Connect: func(_ context.Context, p migrate.Place) (agent.Agent, error) {
		if w.noAgent != nil {
			return nil, w.noAgent
		}
		if p.Name == "a" {
			return &w.here, nil
		}
		return &w.there, nil
	}}
	s, err := n.Open(t.Context(), j)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // nothing is under way
	return s
}

// asked are the methods of images that an agent was asked for.
func asked(f *agenttest.Fake) string {
	var out []string
	for _, a := range f.Asked() {
		out = append(out, a.Method)
	}
	return strings.Join(out, " ")
}

// What is missing is written down, staged, written down with its identity, and placed, before the destination's QEMU is started.
func TestMissingImagesAreMade(t *testing.T) {
	w := newImageWorld()
	if err := w.open(t, migrate.Params{Strategy: migrate.StrategyPrecopy, CopyStorage: migrate.CopyAll}).Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := asked(&w.there); got != "DescribeImage StageImage PlaceImage" || w.called() != "begin prepare" {
		t.Errorf("asked %s; %s", got, w.called())
	}
	a, _ := w.there.Last("StageImage")
	spec := a.With.(storage.Spec)
	if spec.Path != "/i/web" || spec.Format != "qcow2" || spec.Size != 1<<30 || spec.Data != 6000 || spec.Backing != "" || spec.Like == nil || spec.Like.ClusterSize != 1<<16 {
		t.Errorf("%+v", spec)
	}
	if len(w.kept) != 2 || w.kept[0][0] != spec.Intended() || w.kept[1][0] != w.there.Made {
		t.Errorf("kept %+v", w.kept)
	}
}

func TestImagesOfOtherPlaceAndLayers(t *testing.T) {
	w := newImageWorld()
	p := migrate.Params{Strategy: migrate.StrategyPrecopy, CopyStorage: migrate.CopyAll, Disks: []migrate.DiskMap{{Target: "vda", Path: "/n/x", Format: "raw"}}}
	if err := w.open(t, p).Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	a, _ := w.there.Last("StageImage")
	if s := a.With.(storage.Spec); s.Path != "/n/x" || s.Format != "raw" || s.Like != nil || s.Data != 1<<30 || w.called() != "map begin prepare" {
		t.Errorf("%+v; %s", s, w.called())
	}
	w = newImageWorld()
	if err := w.open(t, migrate.Params{Strategy: migrate.StrategyPrecopy, CopyStorage: migrate.CopyInc}).Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	a, _ = w.there.Last("StageImage")
	if s := a.With.(storage.Spec); s.Backing != "/i/base" || s.BackingFormat != "raw" || s.Data != 1000 {
		t.Errorf("%+v", s)
	}
}

func TestImagesThatStopAMigration(t *testing.T) {
	there := func(size int64) storage.Image {
		return storage.Image{Kind: storage.KindFile, Layers: []storage.Layer{{Path: "/i/web", Format: "qcow2", VirtualSize: size}}}
	}
	busy := there(1 << 30)
	busy.InUse = true
	for says, change := range map[string]func(w *imageWorld){
		"has 5 bytes":           func(w *imageWorld) { w.there.Images["/i/web"] = there(5) },
		"in use":                func(w *imageWorld) { w.there.Images["/i/web"] = busy },
		"6300 bytes are needed": func(w *imageWorld) { w.there.Images["/i/web"] = storage.Image{Kind: storage.KindAbsent, Free: 6299} },
		"too little":            func(w *imageWorld) { w.there.Fails = map[string]error{"StageImage": storage.ErrNoRoom} },
		"already":               func(w *imageWorld) { w.there.Fails = map[string]error{"PlaceImage": storage.ErrExists} },
		"journal":               func(w *imageWorld) { w.keepErr = errors.New("journal") },
	} {
		w := newImageWorld()
		change(w)
		err := w.open(t, migrate.Params{Strategy: migrate.StrategyPrecopy, CopyStorage: migrate.CopyAll}).Prepare(t.Context())
		if err == nil || !strings.Contains(err.Error(), says) || w.called() != "" {
			t.Errorf("%s: %v; %s", says, err, w.called())
		}
	}
}

// Without agents, and where there is nothing to make, it is as it was before there were any.
func TestImagesLeftToLibvirt(t *testing.T) {
	for name, change := range map[string]func(w *imageWorld, p *migrate.Params){
		"no agent": func(w *imageWorld, _ *migrate.Params) { w.noAgent = migrate.ErrLinkLost },
		"not root": func(w *imageWorld, _ *migrate.Params) {
			w.there.Fails = map[string]error{"StageImage": migrate.ErrNotSupported}
		},
		"nothing copied": func(_ *imageWorld, p *migrate.Params) { p.CopyStorage = migrate.CopyNone },
		"it is there":    func(w *imageWorld, _ *migrate.Params) { w.there.Images["/i/web"] = w.here.Images["/i/web"] },
	} {
		w := newImageWorld()
		p := migrate.Params{Strategy: migrate.StrategyPrecopy, CopyStorage: migrate.CopyAll}
		change(w, &p)
		if err := w.open(t, p).Prepare(t.Context()); err != nil || w.called() != "begin prepare" {
			t.Errorf("%s: %v; %s", name, err, w.called())
		}
		if left := len(w.kept) > 0 && len(w.kept[len(w.kept)-1]) > 0; left || strings.Contains(asked(&w.there), "PlaceImage") {
			t.Errorf("%s: kept %+v, asked %s", name, w.kept, asked(&w.there))
		}
		if told := strings.Join(w.told(), " "); p.CopyStorage != migrate.CopyNone && name != "it is there" && !strings.Contains(told, "storage pools") {
			t.Errorf("%s: no word of it: %s", name, told)
		}
	}
}

// A QEMU that was started by its owner has the disks that it was started with.
func TestDiskMapsAreForLibvirt(t *testing.T) {
	sc := newScript()
	p := migrate.Params{Strategy: migrate.StrategyPrecopy, CopyStorage: migrate.CopyAll, Disks: []migrate.DiskMap{{Target: "vda", Path: "/x"}}}
	err := open(t, sc, p).Prepare(t.Context())
	if !errors.Is(err, migrate.ErrNotSupported) || !strings.Contains(migrate.FixOf(err), "--disk") || sc.called() != "" {
		t.Errorf("%v; %s", err, sc.called())
	}
}

func TestRemoveImagesByAgent(t *testing.T) {
	w := newImageWorld()
	w.there.Fails = map[string]error{"RemoveImage": storage.ErrInUse}
	remove := RemoveImages(func(context.Context, migrate.Place) (agent.Agent, error) { return &w.there, nil })
	r, err := remove(t.Context(), imageDest{fakeDest{fakeHost{w.script}}})
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(r.Remove(t.Context(), []storage.Made{{Path: "/a"}, {Path: "/b"}}), r.Close())
	if !errors.Is(err, storage.ErrInUse) || asked(&w.there) != "RemoveImage RemoveImage Close" {
		t.Errorf("%v, %s", err, asked(&w.there))
	}
}
