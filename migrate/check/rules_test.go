package check

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate"
)

var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

const guestUUID = "6b1d7a4e-0000-4000-8000-000000000001"

func ptr[T any](v T) *T { return &v }

// goodGuest is a guest that every rule is content with.
func goodGuest() migrate.DomainFacts {
	return migrate.DomainFacts{
		Name: "web", UUID: guestUUID, State: migrate.GuestState{Run: migrate.RunRunning}, Persistent: true,
		Memory: 1 << 30, VCPUs: 2, Backing: migrate.BackingAnonymous, Machine: "pc-q35-10.0",
		Emulator: "/usr/bin/qemu-system-x86_64", Accel: "kvm", CPU: "<cpu><model>Skylake</model></cpu>",
		Disks: []migrate.Disk{
			{Target: "vda", Path: "/img/web.qcow2", Kind: "file", Format: "qcow2", Capacity: 10 << 30, Used: 2 << 30},
			{Target: "sda", Path: "/iso/debian.iso", Kind: "file", Format: "raw", ReadOnly: true, CDROM: true},
			{Target: "sdb", CDROM: true, ReadOnly: true},
		},
		Devices: []migrate.Device{{Kind: "balloon", Alias: "balloon0"}, {Kind: "channel", Alias: "channel0"}},
		NICs:    []migrate.NIC{{MAC: "52:54:00:00:00:01", Kind: "bridge", Source: "br0"}},
	}
}

func hostFacts(name string) migrate.HostFacts {
	return migrate.HostFacts{
		Driver: "libvirt", Hostname: name, HostUUID: "uuid-of-" + name, Arch: "x86_64",
		LibVer: migrate.Version{Major: 11, Minor: 4}, QEMUVer: migrate.Version{Major: 10, Micro: 2},
		FreeBytes: ptr(int64(8 << 30)), Clock: noon, Asked: noon, Uncertainty: time.Millisecond,
	}
}

// goodFacts are the facts of a migration that nothing speaks against.
func goodFacts() Facts {
	g := goodGuest()
	f := Facts{
		Domain: "web", Now: noon,
		Params: migrate.Params{Strategy: migrate.StrategyAuto, CopyStorage: migrate.CopyAll, TLS: true},
		Source: HostSide{URI: "qemu+ssh://a/system", Facts: Known(hostFacts("a")), Conf: Known(QEMUConf{})},
		Dest:   HostSide{URI: "qemu+ssh://b/system", Facts: Known(hostFacts("b")), Conf: Known(QEMUConf{})},
		Guest:  Known(&g), There: Known(g),
		Snapshots: Known(0), BlockJobs: Known([]string(nil)), Blockers: Known([]string(nil)),
		Namesake: Known[*migrate.DomainFacts](nil), Twin: Known[*migrate.DomainFacts](nil),
		Machines: Known([]string{"pc-q35-9.2", "pc-q35-10.0", "q35"}), CPU: Known(CPUFit{Compatible: true}),
		Images: map[string]Answer[migrate.VolumeFacts]{
			"vda": Known(migrate.VolumeFacts{PoolName: "img", PoolActive: true, FreeBytes: ptr(int64(100 << 30))}),
			"sda": Known(migrate.VolumeFacts{Exists: true}),
		},
		Shared:    map[string]Answer[bool]{"vda": Known(false)},
		InUse:     map[string]Answer[string]{"vda": Known("")},
		Links:     map[Link]Answer[bool]{{"bridge", "br0"}: Known(true)},
		Userfault: Known(goodUserfault()),
		Reach: Reach{From: "a", Name: "b", Addresses: Known([]string{"192.0.2.2"}), SameNetwork: Known(false),
			Ports: []PortFacts{{Purpose: "RAM", Address: "b:49152", Range: "49152-49215", Seen: Known(ContactRefused)}}},
	}
	return f
}

func goodUserfault() UserfaultFacts {
	return UserfaultFacts{
		Sysctl: Known("1\n"), Device: Known[*sys.FileInfo](nil), DeviceAllowed: true,
		User: Known(Account{Name: "libvirt-qemu", UID: 64055, GIDs: []uint32{107}}), Privileged: Known(false),
	}
}

// both changes the guest at both ends.
func both(f *Facts, change func(*migrate.DomainFacts)) {
	g, t := *f.Guest.Value, f.There.Value
	g.Disks, t.Disks = slices.Clone(g.Disks), slices.Clone(t.Disks)
	change(&g)
	change(&t)
	f.Guest, f.There = Known(&g), Known(t)
}

func TestNothingSpeaksAgainstIt(t *testing.T) {
	if got := Evaluate(goodFacts()); len(got) != 0 {
		t.Errorf("findings about good facts: %+v", got)
	}
	r := Conclude(goodFacts())
	if r.Blocked() || r.Err() != nil || r.Strategy != migrate.StrategyHybrid {
		t.Errorf("result %+v", r)
	}
}

// ruleCase is one change to good facts, and the one finding it must give: "" none. What else is found is an error too,
// unless also names it.
type ruleCase struct {
	name   string
	change func(*Facts)
	id     string
	sev    Severity
	side   migrate.Side
	says   string // in title or detail
	also   []string
}

func runCases(t *testing.T, cases []ruleCase) {
	t.Helper()
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			f := goodFacts()
			tc.change(&f)
			got := Evaluate(f)
			var hit *Finding
			for i, x := range got {
				switch {
				case x.ID == tc.id && hit == nil:
					hit = &got[i]
				case x.ID != tc.id && slices.Contains(tc.also, x.ID):
				default:
					t.Errorf("unexpected finding %+v", x)
				}
			}
			switch {
			case tc.id == "":
			case hit == nil:
				t.Fatalf("no finding %s, only %+v", tc.id, got)
			case hit.Severity != tc.sev || hit.Side != tc.side:
				t.Errorf("%s %s at %s, want %s at %s", hit.ID, hit.Severity, hit.Side, tc.sev, tc.side)
			case !strings.Contains(hit.Title+"\n"+hit.Detail, tc.says):
				t.Errorf("%q / %q does not say %q", hit.Title, hit.Detail, tc.says)
			case hit.Severity == Blocker && hit.Fix == "":
				t.Errorf("blocker %s has no fix", hit.ID)
			case strings.Contains(hit.Fix, "\n"):
				t.Errorf("fix of %s is longer than a line: %q", hit.ID, hit.Fix)
			}
		})
	}
}

const (
	src = migrate.SideSource
	dst = migrate.SideDestination
	own = migrate.SideCoordinator
)

func state(run migrate.RunState, job bool) func(*Facts) {
	return func(f *Facts) {
		both(f, func(d *migrate.DomainFacts) { d.State = migrate.GuestState{Run: run, Job: job} })
	}
}

func TestRulesGuest(t *testing.T) {
	other := func(name, uuid string, run migrate.RunState) Answer[*migrate.DomainFacts] {
		return Known(&migrate.DomainFacts{Name: name, UUID: uuid, State: migrate.GuestState{Run: run}})
	}
	nobody := Answer[*migrate.DomainFacts]{OK: true}
	runCases(t, []ruleCase{
		{"no domain", func(f *Facts) { f.Guest = nobody; f.There = Answer[migrate.DomainFacts]{} }, IDNoDomain, Blocker, src, `"web"`, nil},
		{"domain cannot be asked", func(f *Facts) { f.Guest = CouldNotTell[*migrate.DomainFacts]("lost") }, IDNoDomain, Unknown, src, "lost", nil},
		{"stopped", state(migrate.RunStopped, false), IDNotRunning, Blocker, src, "stopped", nil},
		{"crashed", state(migrate.RunCrashed, false), IDNotRunning, Blocker, src, "crashed", nil},
		{"paused", state(migrate.RunPaused, false), IDPaused, Warning, src, "paused", nil},
		{"unfinished post-copy", state(migrate.RunPostcopyPaused, false), IDNotRunning, Blocker, src, "not finished", nil},
		{"resumes one", func(f *Facts) { state(migrate.RunPostcopyPaused, true)(f); f.Params.Resume = true }, "", "", "", "", nil},
		{"job runs", state(migrate.RunRunning, true), IDMigrationRunning, Blocker, src, "", nil},
		{"block job", func(f *Facts) { f.BlockJobs = Known([]string{"vda: commit"}) }, IDBlockJob, Blocker, src, "vda: commit", nil},
		{"block jobs unknown", func(f *Facts) { f.BlockJobs = CouldNotTell[[]string]("hm") }, IDBlockJob, Unknown, src, "hm", nil},
		{"snapshots", func(f *Facts) { f.Snapshots = Known(2) }, IDSnapshots, Blocker, src, "2", nil},
		{"snapshots unknown", func(f *Facts) { f.Snapshots = CouldNotTell[int]("hm") }, IDSnapshots, Unknown, src, "hm", nil},
		{"QEMU blocks", func(f *Facts) { f.Blockers = Known([]string{"invtsc"}) }, IDHypervisorBlocks, Blocker, src, "invtsc", nil},
		{"same name, other UUID", func(f *Facts) { f.Namesake = other("web", "other", migrate.RunRunning) }, IDNameTaken, Blocker, dst, "other", nil},
		{"same name, other UUID, stopped", func(f *Facts) { f.Namesake = other("web", "other", migrate.RunStopped) }, IDNameTaken, Blocker, dst, "stopped", nil},
		{"same name, no UUIDs", func(f *Facts) {
			both(f, func(d *migrate.DomainFacts) { d.UUID = "" })
			f.Namesake = other("web", "", migrate.RunStopped)
		}, IDNameTaken, Blocker, dst, "unknown", nil},
		{"same domain, defined", func(f *Facts) {
			f.Namesake = other("web", guestUUID, migrate.RunStopped)
			f.Twin = f.Namesake
		}, IDDefinedThere, Info, dst, "", nil},
		{"same domain, running", func(f *Facts) {
			f.Namesake = other("web", guestUUID, migrate.RunRunning)
			f.Twin = f.Namesake
		}, IDRunningThere, Blocker, dst, "", nil},
		{"same domain, waiting", func(f *Facts) { f.Namesake = other("web", guestUUID, migrate.RunIncoming) }, IDRunningThere, Blocker, dst, "incoming", nil},
		{"same UUID, other name", func(f *Facts) { f.Twin = other("old", guestUUID, migrate.RunStopped) }, IDUUIDTaken, Blocker, dst, "old", nil},
		{"renamed to a free name", func(f *Facts) { f.Params.DestinationName = "new" }, "", "", "", "", nil},
		{"namesake unknown", func(f *Facts) { f.Namesake = CouldNotTell[*migrate.DomainFacts]("hm") }, IDNameTaken, Unknown, dst, "hm", nil},
		{"twin unknown", func(f *Facts) { f.Twin = CouldNotTell[*migrate.DomainFacts]("hm") }, IDUUIDTaken, Unknown, dst, "hm", nil},
		{"bad XML", func(f *Facts) { f.There = CouldNotTell[migrate.DomainFacts]("EOF") }, IDXMLInvalid, Blocker, own, "EOF", nil},
	})
}

func TestRulesHost(t *testing.T) {
	dstFacts := func(change func(*migrate.HostFacts)) func(*Facts) {
		return func(f *Facts) {
			h := hostFacts("b")
			change(&h)
			f.Dest.Facts = Known(h)
		}
	}
	runCases(t, []ruleCase{
		{"source unknown", func(f *Facts) { f.Source.Facts = CouldNotTell[migrate.HostFacts]("hm") }, IDHostUnknown, Unknown, src, "hm", nil},
		{"destination unknown", func(f *Facts) { f.Dest.Facts = CouldNotTell[migrate.HostFacts]("hm") }, IDHostUnknown, Unknown, dst, "hm", nil},
		{"same host", dstFacts(func(h *migrate.HostFacts) { h.HostUUID = "uuid-of-a" }), IDSameHost, Blocker, dst, "uuid-of-a", nil},
		{"both UUIDs unknown", func(f *Facts) {
			h := hostFacts("a")
			h.HostUUID = ""
			f.Source.Facts, f.Dest.Facts = Known(h), Known(h)
		}, "", "", "", "", nil},
		{"same name only", dstFacts(func(h *migrate.HostFacts) { h.Hostname = "a" }), "", "", "", "", nil},
		{"other driver", dstFacts(func(h *migrate.HostFacts) { h.Driver = "qemu" }), IDDriversDiffer, Blocker, dst, "qemu", nil},
		{"other arch", dstFacts(func(h *migrate.HostFacts) { h.Arch = "aarch64" }), IDArchDiffers, Blocker, dst, "aarch64", nil},
		{"other arch under TCG", func(f *Facts) {
			dstFacts(func(h *migrate.HostFacts) { h.Arch = "aarch64" })(f)
			both(f, func(d *migrate.DomainFacts) { d.Accel, d.VCPUs = "tcg", 1 })
		}, "", "", "", "", nil},
		{"older QEMU", dstFacts(func(h *migrate.HostFacts) { h.QEMUVer = migrate.Version{Major: 9, Minor: 2} }), IDOlderQEMU, Warning, dst, "9.2.0", nil},
		{"newer QEMU", dstFacts(func(h *migrate.HostFacts) { h.QEMUVer = migrate.Version{Major: 11} }), "", "", "", "", nil},
		{"QEMU unknown", dstFacts(func(h *migrate.HostFacts) { h.QEMUVer = migrate.Version{} }), "", "", "", "", nil},
		{"older libvirt", dstFacts(func(h *migrate.HostFacts) { h.LibVer = migrate.Version{Major: 11, Minor: 1, Micro: 9} }), IDOlderLibvirt, Warning, dst, "11.1.9", nil},
		{"clock behind", dstFacts(func(h *migrate.HostFacts) { h.Clock = noon.Add(-3 * time.Second) }), IDClockSkew, Warning, dst, "3s behind", nil},
		{"clock ahead", dstFacts(func(h *migrate.HostFacts) { h.Clock = noon.Add(1100 * time.Millisecond) }), IDClockSkew, Warning, dst, "1.1s ahead", nil},
		{"clock close", dstFacts(func(h *migrate.HostFacts) { h.Clock = noon.Add(900 * time.Millisecond) }), "", "", "", "", nil},
		{"asked later", dstFacts(func(h *migrate.HostFacts) { h.Clock, h.Asked = noon.Add(9*time.Second), noon.Add(9*time.Second) }), "", "", "", "", nil},
		{"clock in doubt", dstFacts(func(h *migrate.HostFacts) { h.Clock, h.Uncertainty = noon.Add(2*time.Second), 2*time.Second }), IDClockSkew, Unknown, dst, "±2.001s", nil},
		{"clock unknown", dstFacts(func(h *migrate.HostFacts) { h.Clock = time.Time{} }), IDClockSkew, Unknown, dst, "time", nil},
		{"machine missing", func(f *Facts) { f.Machines = Known([]string{"pc-q35-9.2", "pc-i440fx-9.2"}) }, IDMachineMissing, Blocker, dst, "it knows pc-q35-9.2", nil},
		{"machine family missing", func(f *Facts) { f.Machines = Known([]string{"microvm"}) }, IDMachineMissing, Blocker, dst, "no pc-q35", nil},
		{"emulator missing", func(f *Facts) { f.Machines = Known([]string{}) }, IDEmulatorMissing, Blocker, dst, "/usr/bin/qemu", nil},
		{"machines unknown", func(f *Facts) { f.Machines = CouldNotTell[[]string]("hm") }, IDMachineMissing, Unknown, dst, "hm", nil},
		{"machines not asked", func(f *Facts) { f.Machines = Answer[[]string]{} }, "", "", "", "", nil},
		{"CPU missing", func(f *Facts) { f.CPU = Known(CPUFit{Why: "avx512f"}) }, IDCPUMissing, Blocker, dst, "avx512f", nil},
		{"CPU unknown", func(f *Facts) { f.CPU = CouldNotTell[CPUFit]("hm") }, IDCPUMissing, Unknown, dst, "hm", nil},
		{"memory short", dstFacts(func(h *migrate.HostFacts) { h.FreeBytes = ptr(int64(1<<30 - 1)) }), IDMemoryShort, Blocker, dst, "needs 1 GiB", nil},
		{"memory just enough", dstFacts(func(h *migrate.HostFacts) { h.FreeBytes = ptr(int64(1 << 30)) }), "", "", "", "", nil},
		{"memory unknown", dstFacts(func(h *migrate.HostFacts) { h.FreeBytes = nil }), IDMemoryShort, Unknown, dst, "", nil},
	})
}

func TestRulesHugePages(t *testing.T) {
	huge := func(free Answer[int64], page int64) func(*Facts) {
		return func(f *Facts) {
			h := hostFacts("b")
			h.FreeBytes = ptr(int64(0)) // huge pages are not counted as free memory
			f.Dest.Facts, f.HugePages = Known(h), free
			both(f, func(d *migrate.DomainFacts) { d.Backing, d.PageSize = migrate.BackingHugetlb, page })
		}
	}
	runCases(t, []ruleCase{
		{"enough", huge(Known(int64(512)), 2<<20), "", "", "", "", nil},
		{"one too few", huge(Known(int64(511)), 2<<20), IDHugePagesShort, Blocker, dst, "512 of 2 MiB, 511 are free", nil},
		{"unknown", huge(CouldNotTell[int64]("hm"), 2<<20), IDHugePagesShort, Unknown, dst, "hm", nil},
		{"page size unknown", huge(Answer[int64]{}, 0), IDHugePagesShort, Unknown, dst, "", nil},
		{"not hugetlb", func(f *Facts) { f.HugePages = Known(int64(0)) }, "", "", "", "", nil},
	})
}

func TestRulesDevices(t *testing.T) {
	dev := func(kind, detail string) func(*Facts) {
		return func(f *Facts) {
			f.Params.Strategy = migrate.StrategyPrecopy
			both(f, func(d *migrate.DomainFacts) {
				d.Devices = []migrate.Device{{Kind: kind, Alias: "dev0", Detail: detail}}
			})
		}
	}
	cd := func(a Answer[migrate.VolumeFacts]) func(*Facts) { return func(f *Facts) { f.Images["sda"] = a } }
	runCases(t, []ruleCase{
		{"hostdev", dev("hostdev", "0000:01:00.0"), IDDeviceHostdev, Blocker, src, "0000:01:00.0", nil},
		{"pci", dev("pci", ""), IDDeviceHostdev, Blocker, src, "dev0", nil},
		{"mdev", dev("mdev", ""), IDDeviceMdev, Blocker, src, "dev0", nil},
		{"vhost-user", dev("vhost-user", ""), IDDeviceVhostUser, Warning, src, "dev0", nil},
		{"vhost-user card", func(f *Facts) {
			f.Params.Strategy = migrate.StrategyPrecopy
			both(f, func(d *migrate.DomainFacts) { d.NICs = []migrate.NIC{{MAC: "m", Kind: "vhostuser"}} })
		}, IDDeviceVhostUser, Warning, src, "m", nil},
		{"virtiofs", dev("virtiofs", "/srv"), IDDeviceVirtiofs, Blocker, src, "/srv", nil},
		{"virtiofs, unsafe", func(f *Facts) { dev("virtiofs", "")(f); f.Params.Unsafe = true }, IDDeviceVirtiofs, Warning, src, "", nil},
		{"9p", dev("9p", ""), IDDeviceDirectory, Warning, src, "", nil},
		{"vdpa", dev("vdpa", ""), IDDeviceVDPA, Blocker, src, "", nil},
		{"shmem", dev("shmem", ""), IDDeviceShmem, Warning, src, "", nil},
		{"tpm of the host", dev("tpm", "passthrough"), IDDeviceTPM, Blocker, src, "", nil},
		{"tpm emulated", dev("tpm", "emulator"), "", "", "", "", nil},
		{"tpm by XML", func(f *Facts) {
			dev("tpm", "")(f)
			both(f, func(d *migrate.DomainFacts) {
				d.XML = `<domain><devices><tpm><backend type='passthrough'/></tpm></devices></domain>`
			})
		}, IDDeviceTPM, Blocker, src, "", nil},
		{"tpm unknown", dev("tpm", ""), IDDeviceTPM, Unknown, src, "", nil},
		{"usb", dev("usb", "redirected"), IDDeviceUSB, Warning, src, "redirected", nil},
		{"CD missing", cd(Known(migrate.VolumeFacts{})), IDCDROMMissing, Blocker, dst, "/iso/debian.iso", nil},
		{"CD unknown", cd(CouldNotTell[migrate.VolumeFacts]("hm")), IDCDROMMissing, Unknown, dst, "hm", nil},
		{"CD not asked", cd(Answer[migrate.VolumeFacts]{}), "", "", "", "", nil},
	})
}

func TestNearest(t *testing.T) {
	have := []string{"pc-q35-10.0", "pc-q35-2.11", "pc-q35-9.2", "q35", "pc-q35-2.4", "pc-q35-8.0.1", "pc-q35-8.0", "microvm", "pc-q35-9.0"}
	if got, want := nearest("pc-q35-11.0", have), "it knows …, pc-q35-2.11, pc-q35-8.0, pc-q35-8.0.1, pc-q35-9.0, pc-q35-9.2, pc-q35-10.0"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", 10 << 30: "10 GiB", 3 << 40: "3 TiB"} {
		if got := size(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
	if got := fmt.Sprint(signed(-1500*time.Millisecond), signed(time.Second)); got != "1.5s behind1s ahead" && got != "1.5s behind 1s ahead" {
		t.Error(got)
	}
}

// A guest that QEMU itself was seen to damage is warned of, unless agents move it.
func TestWritesLost(t *testing.T) {
	ring := func(size int) string {
		return fmt.Sprintf(`<domain><features><kvm><dirty-ring state='on' size='%d'/></kvm></features></domain>`, size)
	}
	for _, c := range []struct {
		name, want string
		change     func(*migrate.DomainFacts)
	}{
		{"as it is", "", func(*migrate.DomainFacts) {}},
		{"a small ring", "dirty-ring-small/warning", func(g *migrate.DomainFacts) { g.XML = ring(4096) }},
		{"the largest ring", "", func(g *migrate.DomainFacts) { g.XML = ring(65536) }},
		{"a ring that is off", "", func(g *migrate.DomainFacts) { g.XML = strings.Replace(ring(4096), "'on'", "'off'", 1) }},
		{"two CPUs under TCG", "tcg-several-cpus/warning", func(g *migrate.DomainFacts) { g.Accel = "tcg" }},
		{"one CPU under TCG", "", func(g *migrate.DomainFacts) { g.Accel, g.VCPUs = "tcg", 1 }},
	} {
		native, agents := goodFacts(), nbdFacts()
		both(&native, c.change)
		both(&agents, c.change)
		if got := found(ruleWritesLost(native)); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		if got := ruleWritesLost(agents); len(got) > 0 {
			t.Errorf("%s by agents: %v", c.name, got)
		}
	}
}
