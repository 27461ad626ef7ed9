package check

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/testenv"
)

func TestMain(m *testing.M) {
	testenv.Init()
	goleak.VerifyTestMain(m)
}

// world is two hosts and a guest that nothing speaks against.
type world struct {
	src, dst *fakeHost
	a, b     *fakeView
	p        migrate.Params
}

func newWorld() *world {
	users := map[string]string{
		"/etc/passwd": "root:x:0:0:::\nlibvirt-qemu:x:64055:107:::\n", "/etc/group": "kvm:x:107:\n",
		"/proc/sys/vm/unprivileged_userfaultfd": "1\n",
	}
	return &world{
		src: &fakeHost{uri: "qemu+ssh://a/system", facts: hostFacts("a"), domains: map[string]migrate.DomainFacts{"web": goodGuest()}},
		dst: &fakeHost{uri: "qemu+ssh://b/system", facts: hostFacts("b"), machines: []string{"pc-q35-10.0"}, cpu: CPUFit{Compatible: true},
			volumes: map[string]migrate.VolumeFacts{"/img/web.qcow2": {PoolName: "img", PoolActive: true, FreeBytes: ptr(int64(20 << 30))}},
			bridges: []string{"br0"}, domains: map[string]migrate.DomainFacts{}},
		a: &fakeView{name: "a", files: users, names: map[string][]string{"b": {"192.0.2.2"}},
			ports: map[string]error{"192.0.2.2:49152": syscall.ECONNREFUSED, "192.0.2.2:49215": syscall.ECONNREFUSED}},
		b: &fakeView{name: "b", files: users, stats: map[string]sys.FileInfo{"/iso/debian.iso": {Mode: 0o100644}}},
		p: migrate.Params{Strategy: migrate.StrategyAuto, CopyStorage: migrate.CopyAll},
	}
}

func (w *world) options() Options {
	return Options{Now: func() time.Time { return noon }, Open: opener(map[string]*fakeView{w.src.uri: w.a, w.dst.uri: w.b})}
}

func (w *world) gather(t *testing.T) Facts {
	t.Helper()
	f, err := Gather(t.Context(), w.src, w.dst, "web", w.p, w.options())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// found lists the findings in short: ID/severity.
func found(fs []Finding, but ...string) string {
	var out []string
	for _, f := range fs {
		if !slices.Contains(but, f.ID) {
			out = append(out, f.ID+"/"+string(f.Severity))
		}
	}
	return strings.Join(out, " ")
}

func TestGatherGood(t *testing.T) {
	w := newWorld()
	r, err := Run(t.Context(), w.src, w.dst, "web", w.p, w.options())
	if err != nil {
		t.Fatal(err)
	}
	if got := found(r.Findings, IDInClear); got != "" || r.Strategy != migrate.StrategyHybrid || r.Blocked() {
		t.Errorf("found %s; strategy %s (%s)", got, r.Strategy, r.Reason)
	}
	if got := strings.Join(slices.Sorted(slices.Values(w.a.dialed)), " "); got != "192.0.2.2:49152 192.0.2.2:49215" || len(w.b.dialed) > 0 {
		t.Errorf("dialled %s", got)
	}
}

// What each change of the world leads to, from the question to the finding.
func TestGatherFindings(t *testing.T) {
	file := func(w *world) migrate.DomainFacts { return w.src.domains["web"] }
	set := func(w *world, change func(*migrate.DomainFacts)) {
		g := file(w)
		g.Disks = slices.Clone(g.Disks)
		change(&g)
		w.src.domains["web"] = g
	}
	tests := []struct {
		name   string
		change func(*world)
		want   string
	}{
		{"no domain", func(w *world) { w.src.domains = nil }, "no-domain/blocker"},
		{"name taken", func(w *world) { w.dst.domains["web"] = migrate.DomainFacts{Name: "web", UUID: "x"} }, "name-taken/blocker"},
		{"renamed", func(w *world) {
			w.dst.domains["web"] = migrate.DomainFacts{Name: "web", UUID: "x"}
			w.p.DestinationName = "web2"
		}, ""},
		{"UUID taken", func(w *world) { w.dst.domains["old"] = migrate.DomainFacts{Name: "old", UUID: guestUUID} }, "uuid-taken/blocker"},
		{"machine", func(w *world) { w.dst.machines, w.dst.cpu = []string{"q35"}, CPUFit{} }, "machine-missing/blocker"},
		{"CPU", func(w *world) { w.dst.cpu = CPUFit{Why: "no avx"} }, "cpu-missing/blocker"},
		{"CPU under TCG", func(w *world) {
			w.dst.cpu = CPUFit{}
			set(w, func(d *migrate.DomainFacts) { d.Accel, d.VCPUs = "tcg", 1 })
		}, "cpu-missing/unknown"},
		{"bridge", func(w *world) { w.dst.bridges = nil }, "bridge-missing/blocker"},
		{"bridge seen", func(w *world) { w.dst.bridges, w.b.devices = nil, map[string]bool{"br0": true} }, ""},
		{"bridge not seen", func(w *world) { w.b.devices = map[string]bool{"lo": true} }, "bridge-missing/blocker"},
		{"bridge unknown", func(w *world) { w.dst.fails = []string{"bridge"} }, "bridge-missing/unknown"},
		{"network", func(w *world) {
			set(w, func(d *migrate.DomainFacts) { d.NICs = []migrate.NIC{{Kind: "network", Source: "lan"}} })
		}, "network-missing/blocker"},
		{"huge pages", func(w *world) {
			set(w, func(d *migrate.DomainFacts) { d.Backing, d.PageSize = migrate.BackingHugetlb, 2<<20 })
		}, "hugepages-short/blocker"},
		{"no pool", func(w *world) { w.dst.volumes = nil }, "disk-no-pool/blocker"},
		{"no room", func(w *world) {
			w.dst.volumes["/img/web.qcow2"] = migrate.VolumeFacts{PoolName: "img", PoolActive: true, FreeBytes: ptr(int64(1))}
		}, "disk-no-room/blocker"},
		{"image outside of any pool", func(w *world) { w.dst.volumes = nil; w.b.stats["/img/web.qcow2"] = sys.FileInfo{} }, "disk-overwrite/warning"},
		{"image deleted behind the pool", func(w *world) {
			w.dst.volumes["/img/web.qcow2"] = migrate.VolumeFacts{Exists: true, Capacity: 1, PoolName: "img", PoolActive: true, FreeBytes: ptr(int64(20 << 30))}
		}, ""},
		{"raw image too small", func(w *world) {
			set(w, func(d *migrate.DomainFacts) { d.Disks[0].Format = "raw" })
			w.b.stats["/img/web.qcow2"] = sys.FileInfo{Mode: 0o100644, Size: 5}
		}, "disk-size-differs/blocker"},
		{"images unknown", func(w *world) { w.dst.fails = []string{"volume"} }, "disk-no-pool/unknown"},
		{"CD missing", func(w *world) { delete(w.b.stats, "/iso/debian.iso") }, "cdrom-missing/blocker"},
		{"local disk", func(w *world) {
			w.p.CopyStorage = migrate.CopyNone
			w.a.fsTypes = map[string]string{"/img/web.qcow2": "ext2/ext3"}
			w.b.stats["/img/web.qcow2"] = sys.FileInfo{}
		}, "disk-local/blocker"},
		{"shared disk", func(w *world) {
			w.p.CopyStorage = migrate.CopyNone
			w.a.fsTypes = map[string]string{"/img/web.qcow2": "nfs"}
			w.b.stats["/img/web.qcow2"] = sys.FileInfo{}
		}, ""},
		{"disk on FUSE", func(w *world) {
			w.p.CopyStorage = migrate.CopyNone
			w.a.fsTypes = map[string]string{"/img/web.qcow2": "fuseblk"}
			w.b.stats["/img/web.qcow2"] = sys.FileInfo{}
		}, "disk-local/unknown"},
		{"target in use", func(w *world) { w.dst.domains["db"] = rival("db", migrate.RunRunning) }, "disk-in-use/blocker"},
		{"target of a stopped domain would be overwritten", func(w *world) { w.dst.domains["db"] = rival("db", migrate.RunStopped) }, "disk-in-use/blocker"},
		{"target is its own", func(w *world) {
			d := rival("web", migrate.RunStopped)
			d.UUID = guestUUID
			w.dst.domains["web"] = d
		}, "defined-there/info"},
		{"name unknown at the source", func(w *world) { w.a.names = nil }, "name-unresolved/blocker"},
		{"name is loopback", func(w *world) { w.a.names["b"] = []string{"127.0.1.1"} }, "name-loopback/blocker"},
		{"ports blocked", func(w *world) { w.a.ports = nil }, "port-blocked/blocker"},
		{"migration_host", func(w *world) {
			w.b.files = maps.Clone(w.b.files)
			w.b.files[qemuConfPath] = "migration_host = \"b-fast\"\nmigration_port_min = 50000\nmigration_port_max = 50000\n"
			w.a.names["b-fast"] = []string{"198.51.100.2"}
			w.a.ports = map[string]error{"198.51.100.2:50000": nil}
		}, ""},
		{"migrate URI", func(w *world) {
			w.p.MigrateURI = "tcp://198.51.100.2:6000"
			w.a.names["198.51.100.2"] = []string{"198.51.100.2"}
			w.a.ports["198.51.100.2:6000"] = syscall.EHOSTUNREACH
			w.a.ports["198.51.100.2:49152"], w.a.ports["198.51.100.2:49215"] = nil, nil
		}, "port-blocked/blocker"},
		{"migrate URI taken", func(w *world) {
			w.p.MigrateURI, w.p.DisksPort = "tcp://b:6000", 6001
			w.b.listen = map[int]bool{6000: true, 22: true}
			w.a.ports["192.0.2.2:6001"] = syscall.ECONNREFUSED
		}, "port-busy/blocker"},
		{"peer to peer, closed", func(w *world) {
			w.p.PeerToPeer, w.p.PeerURI = true, "qemu+tcp://b/system"
			w.a.ports["192.0.2.2:16509"] = syscall.ECONNREFUSED
		}, "port-closed/blocker"},
		{"peer to peer, open", func(w *world) { w.p.PeerToPeer = true; w.a.ports["192.0.2.2:22"] = nil }, ""},
		{"source broken", func(w *world) { w.a.broken = true }, "name-unresolved/unknown"},
		{"userfaultfd refused", func(w *world) {
			w.b.files = maps.Clone(w.b.files)
			w.b.files["/proc/sys/vm/unprivileged_userfaultfd"] = "0\n"
		}, "postcopy-userfaultfd/info"},
		{"userfaultfd by device", func(w *world) {
			w.b.files = maps.Clone(w.b.files)
			w.b.files["/proc/sys/vm/unprivileged_userfaultfd"] = "0\n"
			w.b.stats[userfaultDevice] = sys.FileInfo{Mode: 0o660, GID: 107}
		}, ""},
		{"userfaultfd by device, old libvirt", func(w *world) {
			w.b.files = maps.Clone(w.b.files)
			w.b.files["/proc/sys/vm/unprivileged_userfaultfd"] = "0\n"
			w.b.stats[userfaultDevice] = sys.FileInfo{Mode: 0o660, GID: 107}
			w.src.facts.LibVer, w.dst.facts.LibVer = migrate.Version{Major: 9}, migrate.Version{Major: 9}
		}, "postcopy-userfaultfd/info"},
		{"kernel without userfaultfd", func(w *world) {
			w.b.files = maps.Clone(w.b.files)
			delete(w.b.files, "/proc/sys/vm/unprivileged_userfaultfd")
		}, "postcopy-userfaultfd/info"},
		{"RAM in a file", func(w *world) {
			set(w, func(d *migrate.DomainFacts) { d.Backing = migrate.BackingFile })
			w.b.fsTypes = map[string]string{"/var/lib": "xfs"}
		}, "postcopy-backing/info"},
		{"RAM in a file on tmpfs", func(w *world) {
			set(w, func(d *migrate.DomainFacts) { d.Backing = migrate.BackingFile })
			w.b.fsTypes = map[string]string{defaultMemoryDir: "tmpfs"}
		}, ""},
		{"TLS without certificates", func(w *world) { w.p.TLS = true },
			"tls-file-missing/blocker tls-file-missing/blocker tls-file-missing/blocker tls-file-missing/blocker tls-file-missing/blocker tls-file-missing/blocker"},
		{"bad XML", func(w *world) { w.p.DestinationXML = "<domain>" }, "destination-xml-invalid/blocker"},
		{"clock of the driver", func(w *world) { w.dst.facts.Clock = noon.Add(5 * time.Second) }, "clock-skew/warning"},
		{"clock of the view", func(w *world) { w.dst.facts.Clock, w.b.ahead = time.Time{}, -5*time.Second }, "clock-skew/warning"},
		{"our own clock", func(w *world) { // both on this machine, and nothing else to be seen of one
			w.src.facts.Clock, w.dst.facts.Clock = time.Time{}, time.Time{}
			w.src.facts.Local, w.a = true, nil
		}, "name-unresolved/unknown"},
		{"no clock", func(w *world) { // the same, further away
			w.src.facts.Clock, w.dst.facts.Clock = time.Time{}, time.Time{}
			w.a = nil
		}, "clock-skew/unknown name-unresolved/unknown"},
		{"clock of the view, good", func(w *world) { w.src.facts.Clock, w.dst.facts.Clock = time.Time{}, time.Time{} }, ""},
		{"little memory free, much available", func(w *world) {
			w.dst.facts.FreeBytes = ptr(int64(1 << 20))
			w.b.files = maps.Clone(w.b.files)
			w.b.files["/proc/meminfo"] = "MemFree: 1024 kB\nMemAvailable: 2097152 kB\n"
		}, ""},
		{"little memory available", func(w *world) {
			w.b.files = maps.Clone(w.b.files)
			w.b.files["/proc/meminfo"] = "MemFree: 9999999 kB\nMemAvailable:    1000 kB\n"
		}, "memory-short/blocker"},
		{"snapshots unknown", func(w *world) { w.src.fails = []string{"snapshots"} }, "snapshots/unknown"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld()
			tc.change(w)
			if got := found(Evaluate(w.gather(t)), IDInClear); got != tc.want {
				t.Errorf("found %q, want %q", got, tc.want)
			}
		})
	}
}

// rival is a domain with the guest's image.
func rival(name string, run migrate.RunState) migrate.DomainFacts {
	return migrate.DomainFacts{Name: name, UUID: "of-" + name, State: migrate.GuestState{Run: run},
		Disks: []migrate.Disk{{Target: "vdb", Path: "/img/web.qcow2"}}}
}

// A host that offers nothing beyond migrate.Host, without views: nothing is guessed, and nothing blocks.
func TestGatherBare(t *testing.T) {
	w := newWorld()
	o := w.options()
	o.Open = noView
	w.dst.facts.Hostname = "192.0.2.2" // so that no resolver is asked
	w.p.CopyStorage = migrate.CopyNone
	w.p.MigrateURI = "tcp://192.0.2.2:6000"
	r, err := Run(t.Context(), plainHost{w.src}, plainHost{w.dst}, "web", w.p, o)
	if err != nil {
		t.Fatal(err)
	}
	want := "cdrom-missing/unknown disk-local/unknown port-blocked/unknown postcopy-userfaultfd/unknown"
	if got := found(r.Findings, IDInClear); got != want || r.Blocked() || r.Strategy != migrate.StrategyPrecopy {
		t.Errorf("found %q, want %q; strategy %s", got, want, r.Strategy)
	}
}

// Two bare QEMUs: there are no names to clash with, the disks are those it was started with, and the process itself
// tells whether it may open a userfaultfd.
func TestGatherBareQEMU(t *testing.T) {
	w := newWorld()
	w.src.uri, w.dst.uri = "qemu+qmp:///a.sock", "qemu+qmp:///b.sock"
	w.src.facts.Driver, w.dst.facts.Driver = "qemu", "qemu"
	w.dst.domains["web"] = migrate.DomainFacts{Name: "web"}
	w.p.CopyStorage, w.p.MigrateURI = migrate.CopyNone, "unix:///r"
	w.b.stats, w.b.uid = nil, 1000
	w.b.files = maps.Clone(w.b.files)
	w.b.files["/proc/sys/vm/unprivileged_userfaultfd"] = "0\n"
	if got := found(Evaluate(w.gather(t))); got != "postcopy-userfaultfd/info" {
		t.Errorf("found %q", got)
	}
	w.b.ptrace = true
	if got := found(Evaluate(w.gather(t))); got != "" {
		t.Errorf("with CAP_SYS_PTRACE: found %q", got)
	}
}

// A port that may have a listener of its own is not dialled.
func TestGatherDialsNoStranger(t *testing.T) {
	w := newWorld()
	w.b.listen = map[int]bool{49152: true, 49153: true, 49215: true}
	w.gather(t)
	if got := strings.Join(slices.Sorted(slices.Values(w.a.dialed)), " "); got != "192.0.2.2:49154 192.0.2.2:49214" {
		t.Errorf("dialled %s", got)
	}
	w = newWorld()
	w.b.broken = true
	w.p.MigrateURI, w.p.CopyStorage = "tcp://b:6000", migrate.CopyNone
	f := w.gather(t)
	if len(w.a.dialed) > 0 || len(f.Reach.Ports) != 1 || !f.Reach.Ports[0].Seen.Open() {
		t.Errorf("dialled %v, facts %+v", w.a.dialed, f.Reach.Ports)
	}
	w.p.MigrateURI = ""
	w.gather(t)
	if got := strings.Join(w.a.dialed, " "); got != "192.0.2.2:49215" {
		t.Errorf("with unknown listeners: dialled %s", got)
	}
	// At the source, a loopback address leads to the source's own ports.
	w = newWorld()
	w.a.names["b"] = []string{"127.0.0.1"}
	w.gather(t)
	if len(w.a.dialed) > 0 {
		t.Errorf("dialled the source itself: %v", w.a.dialed)
	}
}

func TestFreePorts(t *testing.T) {
	for _, tc := range []struct {
		taken []int
		want  string
	}{
		{nil, "[1 3]"}, {[]int{1}, "[2 3]"}, {[]int{3}, "[1 2]"}, {[]int{1, 3}, "[2]"}, {[]int{1, 2, 3}, "[]"}, {[]int{2}, "[1 3]"},
	} {
		taken := map[int]bool{}
		for _, n := range tc.taken {
			taken[n] = true
		}
		if got := fmt.Sprint(freePorts(1, 3, taken)); got != tc.want {
			t.Errorf("taken %v: %s, want %s", tc.taken, got, tc.want)
		}
	}
}

// A host that never answers costs its deadlines, and what it was asked could not be told.
func TestGatherHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.dst.hangs = []string{"facts", "domain", "domains", "machines", "cpu", "volume", "networks"}
		start := time.Now()
		f, err := Gather(t.Context(), w.src, w.dst, "web", w.p, w.options())
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > time.Minute {
			t.Errorf("took %s", took)
		}
		for _, x := range Evaluate(f) {
			if x.Severity == Blocker {
				t.Errorf("silence became a blocker: %+v", x)
			}
		}
		if !f.CPU.Open() || !strings.Contains(f.CPU.Why, "no answer within 10s") {
			t.Errorf("CPU: %+v", f.CPU)
		}
	})
}

func TestGatherCancelled(t *testing.T) {
	w := newWorld()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, w.src, w.dst, "web", w.p, w.options()); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want cancelled", err)
	}
}

// The certificates are looked for where each host's qemu.conf says, and each end gets the other's CA.
func TestGatherCerts(t *testing.T) {
	w := newWorld()
	w.p.TLS, w.p.PeerToPeer, w.p.PeerURI = true, true, "qemu+tls://b.lan/system"
	w.a.files, w.b.files = maps.Clone(w.a.files), maps.Clone(w.b.files)
	w.a.files[qemuConfPath] = `default_tls_x509_cert_dir = "/a/pki"`
	w.a.files["/a/pki/ca-cert.pem"] = "A's CA"
	w.b.stats[migrationTLSDir] = sys.FileInfo{Mode: 0o040755}
	w.b.files[migrationTLSDir+"/ca-cert.pem"] = "B's CA"
	w.b.files[qemuConfPath] = "user = \"root\"\n"
	certs := w.gather(t).Certs
	if len(certs) != 4 {
		t.Fatalf("%d certificates", len(certs))
	}
	client, server, daemon := certs[0], certs[1], certs[3]
	if client.Server || client.CertPath != "/a/pki/client-cert.pem" || string(client.CA.Value) != "A's CA" || string(client.PeerCA.Value) != "B's CA" ||
		client.Reader.Value.UID != 64055 {
		t.Errorf("client %+v", client)
	}
	if !server.Server || server.Name != "b" || server.CertPath != migrationTLSDir+"/server-cert.pem" || string(server.PeerCA.Value) != "A's CA" ||
		server.Reader.Value.Name != "root" {
		t.Errorf("server %+v", server)
	}
	if daemon.Name != "b.lan" || daemon.CertPath != "/etc/pki/libvirt/servercert.pem" {
		t.Errorf("daemon %+v", daemon)
	}
}
