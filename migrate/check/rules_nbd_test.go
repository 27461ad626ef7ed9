package check

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate"
)

// nbdFacts are the facts of a migration that the nbd engine could do.
func nbdFacts() Facts {
	f := goodFacts()
	f.Params.TLS = false
	f.HasNBD = true
	both(&f, func(d *migrate.DomainFacts) { d.RAMFiles, d.Shared, d.Backing = true, true, migrate.BackingFile })
	f.RAMFilesystem = Known("tmpfs")
	able := Known(AgentFacts{Able: true})
	f.NBD = NBDFacts{SourceKernel: Known("6.12.48-cloud-amd64"), DestKernel: Known("6.1.0-40"), SourceRAM: Known("tmpfs"),
		SourceAgent: able, DestAgent: able, Confined: Known(false)}
	return f
}

func guestWith(change func(*migrate.DomainFacts)) func(*Facts) {
	return func(f *Facts) { both(f, change) }
}

// nbdCases change the facts so that the nbd engine cannot move the guest (certain), or perhaps not.
var nbdCases = []struct {
	name    string
	change  func(*Facts)
	id      string
	certain bool
	says    string
	also    []string
}{
	{"private RAM", guestWith(func(d *migrate.DomainFacts) { d.RAMFiles, d.Shared, d.Backing = false, false, migrate.BackingAnonymous }), IDNBDMemory, true, "private", nil},
	{"memfd", guestWith(func(d *migrate.DomainFacts) { d.RAMFiles, d.Backing = false, migrate.BackingMemfd }), IDNBDMemory, true, "memfd", nil},
	{"file, private", guestWith(func(d *migrate.DomainFacts) { d.RAMFiles, d.Shared = false, false }), IDNBDMemory, true, "not shared", nil},
	{"a part of it", guestWith(func(d *migrate.DomainFacts) { d.RAMFiles = false }), IDNBDMemory, true, "not all", nil},
	{"huge pages", func(f *Facts) {
		both(f, func(d *migrate.DomainFacts) { d.Backing = migrate.BackingHugetlb })
		f.RAMFilesystem, f.NBD.SourceRAM = Answer[string]{}, Answer[string]{}
		both(f, func(d *migrate.DomainFacts) { d.PageSize = 2 << 20 })
		f.HugePages = Known(int64(1024))
	}, "", false, "", nil},
	{"vhost-user", nbdDevice("vhost-user"), IDNBDDevice, true, "vhost-user", []string{IDDeviceVhostUser}},
	{"vhost-user card", guestWith(func(d *migrate.DomainFacts) { d.NICs = []migrate.NIC{{Kind: "vhostuser", MAC: "m"}} }), IDNBDDevice, true, "network card m", []string{IDDeviceVhostUser}},
	{"vDPA card", guestWith(func(d *migrate.DomainFacts) { d.NICs = []migrate.NIC{{Kind: "vdpa", MAC: "m"}} }), IDNBDDevice, true, "vDPA", nil},
	{"virtiofs", nbdDevice("virtiofs"), IDNBDDevice, true, "virtiofsd", []string{IDDeviceVirtiofs}},
	{"VFIO", nbdDevice("hostdev"), IDNBDDevice, true, "VFIO", []string{IDDeviceHostdev}},
	{"PCI", nbdDevice("pci"), IDNBDDevice, true, "VFIO", []string{IDDeviceHostdev}},
	{"mdev", nbdDevice("mdev"), IDNBDDevice, true, "VFIO", []string{IDDeviceMdev}},
	{"vDPA", nbdDevice("vdpa"), IDNBDDevice, true, "vDPA", []string{IDDeviceVDPA}},
	{"shmem", nbdDevice("shmem"), IDNBDDevice, true, "ivshmem", []string{IDDeviceShmem}},
	{"NVMe disk", guestWith(func(d *migrate.DomainFacts) {
		d.Disks = append(d.Disks, migrate.Disk{Target: "vdn", Kind: "nvme", ReadOnly: true, CDROM: true})
	}), IDNBDDevice, true, "vdn", []string{IDCDROMMissing}},
	{"virtio-mem", nbdDevice("virtio-mem"), IDNBDMemory, true, "virtio-mem", nil},
	{"persistent memory", nbdDevice("nvdimm"), IDNBDMemory, true, "persistent", nil},
	{"balloon", nbdDevice("balloon"), "", false, "", nil},
	{"dimm", nbdDevice("dimm"), "", false, "", nil},
	{"peer-to-peer", func(f *Facts) { f.Params.PeerToPeer = true }, IDNBDOption, true, "--p2p", nil},
	{"xbzrle", func(f *Facts) { f.Params.Compression = []string{"xbzrle"} }, IDNBDOption, true, "xbzrle", nil},
	{"TLS and disks", func(f *Facts) { f.Params.TLS = true }, "", false, "", nil},
	{"TLS and a part of the disks", func(f *Facts) { f.Params.TLS, f.Params.CopyStorage = true, migrate.CopyInc }, IDNBDOption, true, "--tls", nil},
	{"disks by an older QEMU", func(f *Facts) {
		f.Params.TLS, f.Source.Facts.Value.QEMUVer = true, migrate.Version{Major: 8, Minor: 1}
	}, IDNBDVersion, true, "8.2", nil},
	{"an older QEMU", func(f *Facts) { f.Source.Facts.Value.QEMUVer = migrate.Version{Major: 8, Minor: 1} }, "", false, "", nil},
	{"TLS alone", func(f *Facts) { f.Params.TLS, f.Params.CopyStorage = true, migrate.CopyNone }, "", false, "", []string{IDDiskLocal}},
	{"TLS and plain data", func(f *Facts) {
		f.Params.TLS, f.Params.PlainData, f.Params.CopyStorage = true, true, migrate.CopyNone
	}, IDNBDOption, true, "contradict", []string{IDDiskLocal}},
	{"old QEMU", func(f *Facts) { f.Source.Facts.Value.QEMUVer = migrate.Version{Major: 8} }, IDNBDVersion, true, "8.1", nil},
	{"unknown QEMU", func(f *Facts) { f.Dest.Facts.Value.QEMUVer = migrate.Version{} }, IDNBDVersion, false, "may be older", nil},
	{"no userfaultfd", func(f *Facts) {
		f.Userfault.Value.Sysctl, f.Userfault.Value.Device = Known("0"), Known[*sys.FileInfo](nil)
	}, IDNBDUserfault, true, "userfaultfd", nil},
	{"no userfaultfd, pre-copy", func(f *Facts) {
		f.Userfault.Value.Sysctl, f.Params.Strategy = Known("0"), migrate.StrategyPrecopy
	}, "", false, "", nil},
	{"userfaultfd unknown", func(f *Facts) { f.Userfault = CouldNotTell[UserfaultFacts]("hm") }, IDNBDUserfault, false, "may not", nil},
	{"RAM on a disk there", func(f *Facts) { f.RAMFilesystem = Known("ext2/ext3") }, IDNBDBacking, true, "ext2/ext3", nil},
	{"RAM somewhere there", func(f *Facts) { f.RAMFilesystem = CouldNotTell[string]("hm") }, IDNBDBacking, false, "may not", nil},
	{"RAM on a disk here", func(f *Facts) { f.NBD.SourceRAM = Known("xfs") }, IDNBDBacking, false, "xfs", nil},
	{"old kernel", func(f *Facts) { f.NBD.SourceKernel = Known("6.1.0-40-amd64") }, IDNBDKernel, false, "6.7", nil},
	{"old kernel, tracker asked for", func(f *Facts) { f.NBD.SourceKernel, f.Params.Tracker = Known("5.10.0"), "uffd-wp" }, IDNBDKernel, true, "6.7", nil},
	{"old kernel, another tracker", func(f *Facts) { f.NBD.SourceKernel, f.Params.Tracker = Known("5.10.0"), "hash" }, "", false, "", nil},
	{"odd kernel", func(f *Facts) { f.NBD.SourceKernel = Known("next") }, IDNBDKernel, false, "may be older", nil},
	{"unknown kernel", func(f *Facts) { f.NBD.SourceKernel = CouldNotTell[string]("hm") }, IDNBDKernel, false, "may be older", nil},
	{"no agent", func(f *Facts) { f.NBD.DestAgent = Known(AgentFacts{Why: "nobody answers", Fix: "start it"}) }, IDNBDAgent, true, "nobody answers", nil},
	{"agent unknown", func(f *Facts) { f.NBD.SourceAgent = CouldNotTell[AgentFacts]("hm") }, IDNBDAgent, false, "not known", nil},
	{"AppArmor", func(f *Facts) { f.NBD.Confined = Known(true) }, IDNBDConfined, false, "AppArmor", nil},
	{"the waiting QEMU's RAM", func(f *Facts) {
		f.Source.Facts.Value.Driver, f.Dest.Facts.Value.Driver = driverQEMU, driverQEMU
		f.NBD.Waiting = Known(&migrate.DomainFacts{})
	}, IDNBDMemory, true, "waiting", nil},
	{"a waiting QEMU that fits", func(f *Facts) {
		f.Source.Facts.Value.Driver, f.Dest.Facts.Value.Driver = driverQEMU, driverQEMU
		f.NBD.Waiting, f.NBD.WaitingRAM, f.RAMFilesystem = Known(&migrate.DomainFacts{RAMFiles: true}), Known("tmpfs"), CouldNotTell[string]("hm")
	}, "", false, "", nil},
}

func nbdDevice(kind string) func(*Facts) {
	return guestWith(func(d *migrate.DomainFacts) { d.Devices = []migrate.Device{{Kind: kind, Alias: "d0"}} })
}

// TestChooseEngine: auto takes nbd where nothing speaks against it, and says why not elsewhere; --engine nbd is blocked by
// what certainly does, with a fix.
func TestChooseEngine(t *testing.T) {
	for _, c := range nbdCases {
		t.Run(c.name, func(t *testing.T) {
			f := nbdFacts()
			c.change(&f)
			auto := Conclude(f)
			want := migrate.EngineNBD
			if c.id != "" {
				want = migrate.EngineNative
			}
			if auto.Engine != want || auto.EngineReason == "" {
				t.Errorf("auto takes %s (%s), want %s", auto.Engine, auto.EngineReason, want)
			}
			for _, x := range auto.Findings {
				if strings.HasPrefix(x.ID, "nbd-") && x.Severity != Warning {
					t.Errorf("auto finds %+v", x)
				}
			}
			f.Engine = migrate.EngineNBD
			asked := Conclude(f)
			var hit *Finding
			for i, x := range asked.Findings {
				switch {
				case x.ID == c.id && hit == nil:
					hit = &asked.Findings[i]
				case !slices.Contains(c.also, x.ID):
					t.Errorf("unexpected: %+v", x)
				}
			}
			switch {
			case c.id == "":
			case hit == nil:
				t.Fatalf("no finding, only %+v", asked.Findings)
			case (hit.Severity == Blocker) != c.certain || hit.Fix == "" || strings.Contains(hit.Fix, "\n"):
				t.Errorf("%+v", hit)
			case !strings.Contains(hit.Title+"\n"+hit.Detail, c.says):
				t.Errorf("%q / %q does not say %q", hit.Title, hit.Detail, c.says)
			}
			if c.id != "" && (!c.certain && asked.Blocked() || c.certain && !errors.Is(asked.Err(), migrate.ErrBlocked)) && len(c.also) == 0 {
				t.Errorf("blocked: %v, %v", asked.Blocked(), asked.Err())
			}
			for _, s := range asked.Strategies {
				if c.certain && c.id != IDNBDUserfault && s.Possible || c.id == "" && f.Params.Strategy != migrate.StrategyPrecopy && !s.Possible {
					t.Errorf("%+v", s)
				}
			}
			f.Engine = migrate.EngineNative
			if r := Conclude(f); r.Engine != migrate.EngineNative || r.EngineReason != "as asked" {
				t.Errorf("native: %s (%s)", r.Engine, r.EngineReason)
			}
		})
	}
}

// TestEngineThatIsNotThere: without the nbd engine in the program auto is native, whatever the guest.
func TestEngineThatIsNotThere(t *testing.T) {
	f := nbdFacts()
	f.HasNBD = false
	if r := Conclude(f); r.Engine != migrate.EngineNative || r.EngineReason != "the only engine of this version" {
		t.Errorf("%s (%s)", r.Engine, r.EngineReason)
	}
}

// TestResolveNBD: hybrid unless asked otherwise, and QEMU is told nothing of its own way of moving RAM.
func TestResolveNBD(t *testing.T) {
	f := nbdFacts()
	f.Engine = migrate.EngineNBD
	f.Params.AutoConverge, f.Params.AutoConvergeInitial, f.Params.Parallel, f.Params.Preempt = true, 30, 4, true
	r := Conclude(f)
	if len(r.Findings) != 1 || r.Findings[0].ID != IDNBDOption || r.Findings[0].Severity != Info ||
		!strings.Contains(r.Findings[0].Title, "--auto-converge, --parallel, --postcopy-preempt") {
		t.Errorf("findings %+v", r.Findings)
	}
	p := r.Params
	if p.Strategy != migrate.StrategyHybrid || p.AutoConverge || p.AutoConvergeInitial != 0 || p.Parallel != 0 || p.Preempt || p.CopyStorage != migrate.CopyAll {
		t.Errorf("params %+v", p)
	}
	f.Params.Strategy = migrate.StrategyPrecopy
	if p, why, err := Resolve(f, f.Params); err != nil || p.Strategy != migrate.StrategyPrecopy || why != "as asked" {
		t.Errorf("%s, %q, %v", p.Strategy, why, err)
	}
	f.Params.Strategy = "sideways"
	if _, _, err := Resolve(f, f.Params); err == nil || migrate.FixOf(err) == "" {
		t.Errorf("no such strategy: %v", err)
	}
	f = nbdFacts()
	f.Params.AutoConverge = true
	if r := Conclude(f); r.Engine != migrate.EngineNative || !strings.Contains(r.EngineReason, "--auto-converge") || !r.Params.AutoConverge {
		t.Errorf("auto with --auto-converge: %s (%s)", r.Engine, r.EngineReason)
	}
}

// TestOptionsOfNBD: they mean nothing to native, and that is said.
func TestOptionsOfNBD(t *testing.T) {
	for _, p := range []migrate.Params{{Prepage: "linear"}, {Tracker: "hash"}, {PlainData: true}, {KeepCopy: true}, {ReuseRAM: "/r"}} {
		f := goodFacts()
		f.Params.TLS, f.Params.Prepage, f.Params.Tracker, f.Params.PlainData, f.Params.KeepCopy, f.Params.ReuseRAM = false, p.Prepage, p.Tracker, p.PlainData, p.KeepCopy, p.ReuseRAM
		if got := found(Conclude(f).Findings, IDInClear); got != "nbd-option/warning" {
			t.Errorf("%+v with native: %s", p, got)
		}
		f = nbdFacts()
		f.Params.Prepage, f.Params.Tracker, f.Params.PlainData, f.Params.KeepCopy, f.Params.ReuseRAM = p.Prepage, p.Tracker, p.PlainData, p.KeepCopy, p.ReuseRAM
		if got := found(Conclude(f).Findings, IDInClear); got != "" {
			t.Errorf("%+v with nbd: %s", p, got)
		}
	}
}

func TestFreePageReporting(t *testing.T) {
	for name, d := range map[string]migrate.DomainFacts{
		"libvirt":   {Devices: []migrate.Device{{Kind: "balloon"}}, XML: `<domain><devices><memballoon model='virtio' freePageReporting='on'/></devices></domain>`},
		"bare QEMU": {Devices: []migrate.Device{{Kind: "memballoon", Detail: "virtio-balloon-pci with free-page-reporting"}}},
	} {
		f := nbdFacts()
		both(&f, func(g *migrate.DomainFacts) { g.Devices, g.XML = d.Devices, d.XML })
		r := Conclude(f)
		if r.Engine != migrate.EngineNBD || found(r.Findings) != "nbd-balloon/warning" {
			t.Errorf("%s: %s, %s", name, r.Engine, found(r.Findings))
		}
	}
}

func TestKernelVersion(t *testing.T) {
	for text, want := range map[string]migrate.Version{"6.12.48-cloud-amd64": {Major: 6, Minor: 12, Micro: 48}, "6.7\n": {Major: 6, Minor: 7},
		"6.18.0-rc1+": {Major: 6, Minor: 18}, "": {}, "six": {}, "6": {Major: 6}} {
		v, ok := kernelVersion(text)
		if v != want || ok != (want.Minor > 0) {
			t.Errorf("%q: %+v, %v", text, v, ok)
		}
	}
}
