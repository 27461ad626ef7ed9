package check

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// agentHost is a host whose driver knows where agents belong.
type agentHost struct {
	*fakeHost
	migrate.Monitored // asked for, never called
	place             migrate.Place
	err               error
}

func (h agentHost) Place(context.Context) (migrate.Place, error) { return h.place, h.err }

// nbdWorld is a world that the nbd engine could serve, behind ssh.
type nbdWorld struct {
	*world
	src, dst agentHost
	o        Options
}

func newNBDWorld() *nbdWorld {
	w := &nbdWorld{world: newWorld()}
	w.src = agentHost{fakeHost: w.world.src, place: migrate.Place{SSH: "a"}}
	w.dst = agentHost{fakeHost: w.world.dst, place: migrate.Place{SSH: "b"}}
	g := w.src.domains["web"]
	g.Backing, g.Shared, g.RAMFiles = migrate.BackingFile, true, true
	w.src.domains["web"] = g
	for v, name := range map[*fakeView]string{w.a: "a", w.b: "b"} {
		files := map[string]string{"/proc/sys/kernel/osrelease": "6.12.48-amd64\n", "/etc/libvirt/qemu.conf": `memory_backing_dir = "/ram"` + "\n"}
		for k, text := range v.files {
			files[k] = text
		}
		v.name, v.files, v.fsTypes = name, files, map[string]string{"/ram": "tmpfs"}
	}
	w.o = w.options()
	w.o.NBD = true
	return w
}

func TestGatherForNBD(t *testing.T) {
	lost := fmt.Errorf("gone: %w", migrate.ErrLinkLost)
	refused := &migrate.OpError{Op: "reach the agent", Err: errors.New("nobody listens"), Fix: "start one"}
	for name, c := range map[string]struct {
		change func(*nbdWorld)
		want   migrate.EngineName
		says   string
	}{
		"in order":         {func(*nbdWorld) {}, migrate.EngineNBD, "shared files"},
		"agents asked for": {func(w *nbdWorld) { w.o.Agent = func(context.Context, migrate.Side, migrate.Place) error { return nil } }, migrate.EngineNBD, "shared files"},
		"an agent that refuses": {func(w *nbdWorld) {
			w.o.Agent = func(context.Context, migrate.Side, migrate.Place) error { return refused }
		}, migrate.EngineNative, "no agent can be had on the source"},
		"no way to ask":          {func(w *nbdWorld) { w.dst.place = migrate.Place{Name: "b"} }, migrate.EngineNative, "on the destination is not known"},
		"a place that is closed": {func(w *nbdWorld) { w.dst.err = migrate.ErrNotSupported }, migrate.EngineNative, "no agent can be had on the destination"},
		"a place out of reach":   {func(w *nbdWorld) { w.dst.err = lost }, migrate.EngineNative, "on the destination is not known"},
		"an old kernel":          {func(w *nbdWorld) { w.a.files["/proc/sys/kernel/osrelease"] = "6.1.0" }, migrate.EngineNative, "older than 6.7"},
		"an old kernel there":    {func(w *nbdWorld) { w.b.files["/proc/sys/kernel/osrelease"] = "6.1.0" }, migrate.EngineNBD, ""},
		"RAM on a disk there":    {func(w *nbdWorld) { w.b.fsTypes["/ram"] = "xfs" }, migrate.EngineNative, "not on tmpfs"},
		"RAM on a disk here":     {func(w *nbdWorld) { w.a.fsTypes["/ram"] = "xfs" }, migrate.EngineNative, "not on tmpfs"},
		"AppArmor":               {func(w *nbdWorld) { w.b.files["/sys/module/apparmor/parameters/enabled"] = "Y\n" }, migrate.EngineNative, "AppArmor"},
		"AppArmor, switched off": {func(w *nbdWorld) {
			w.b.files["/sys/module/apparmor/parameters/enabled"] = "Y\n"
			w.b.files["/etc/libvirt/qemu.conf"] += "security_driver = \"none\"\n"
		}, migrate.EngineNBD, ""},
		"AppArmor with a rule for us": {func(w *nbdWorld) {
			w.b.files["/sys/module/apparmor/parameters/enabled"] = "Y\n"
			w.b.files[appArmorLocal] = "/var/lib/libvirt/qemu/vmmigrate-* rw,\n"
		}, migrate.EngineNBD, ""},
		"no view of the source": {func(w *nbdWorld) { w.o.Open = opener(map[string]*fakeView{w.dst.uri: w.b}) }, migrate.EngineNative, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newNBDWorld()
			c.change(w)
			r, err := Run(t.Context(), w.src, w.dst, "web", w.p, w.o)
			if err != nil {
				t.Fatal(err)
			}
			if r.Engine != c.want || !strings.Contains(r.EngineReason, c.says) || r.Blocked() {
				t.Errorf("%s (%s), %+v", r.Engine, r.EngineReason, r.Findings)
			}
		})
	}
}

// TestNoAgentsWithoutADriverForThem, and nothing is asked for native.
func TestNoAgentsWithoutADriverForThem(t *testing.T) {
	w := newNBDWorld()
	r, err := Run(t.Context(), w.world.src, w.world.dst, "web", w.p, w.o)
	if err != nil || r.Engine != migrate.EngineNative || !strings.Contains(r.EngineReason, "agent") {
		t.Errorf("%s (%s), %v", r.Engine, r.EngineReason, err)
	}
	w.o.Engine = migrate.EngineNative
	w.o.Agent = func(context.Context, migrate.Side, migrate.Place) error {
		t.Error("an agent was asked for")
		return nil
	}
	if f, err := Gather(t.Context(), w.src, w.dst, "web", w.p, w.o); err != nil || f.NBD.SourceKernel.asked() {
		t.Errorf("%+v, %v", f.NBD, err)
	}
}

// TestGatherForABareQEMU: what its owner started it with has to be fit for agents, too.
func TestGatherForABareQEMU(t *testing.T) {
	for path, want := range map[string]migrate.EngineName{"/dev/shm/x": migrate.EngineNBD, "/home/x": migrate.EngineNative, "": migrate.EngineNative} {
		w := newNBDWorld()
		g := w.src.domains["web"]
		g.RAMPath, g.Disks, g.NICs, g.Emulator, g.Machine = "/dev/shm/src", nil, nil, "", ""
		w.src.domains["web"] = g
		w.p.CopyStorage = migrate.CopyNone
		for _, h := range []*fakeHost{w.src.fakeHost, w.dst.fakeHost} {
			h.facts.Driver, h.facts.LibVer = driverQEMU, migrate.Version{}
		}
		w.dst.domains["web"] = migrate.DomainFacts{Name: "web", State: migrate.GuestState{Run: migrate.RunIncoming}, RAMFiles: path != "", RAMPath: path}
		for _, v := range []*fakeView{w.a, w.b} {
			v.fsTypes, v.ptrace = map[string]string{"/dev/shm/src": "tmpfs", "/dev/shm/x": "tmpfs", "/home": "xfs", "/home/x": "xfs"}, true
		}
		r, err := Run(t.Context(), w.src, w.dst, "web", w.p, w.o)
		if err != nil || r.Engine != want {
			t.Errorf("RAM at %q: %s (%s), %v", path, r.Engine, r.EngineReason, err)
		}
	}
}
