package check

import (
	"errors"
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate"
)

// obstacleCases change good facts so that post-copy is excluded (certain) or might be.
var obstacleCases = []struct {
	name    string
	change  func(*Facts)
	id      string
	certain bool
	says    string
}{
	{"suspend", func(f *Facts) { f.Params.Suspend = true }, IDPostcopySuspend, true, "--suspend"},
	{"disks after", func(f *Facts) { f.Params.CopyStorage = migrate.CopyAfter }, IDPostcopyDisks, true, "--copy-storage-after"},
	{"multifd on QEMU 10.0", func(f *Facts) { f.Params.Parallel = 4 }, IDPostcopyMultifd, true, "10.1"},
	{"multifd on QEMU 10.1", func(f *Facts) {
		f.Params.Parallel = 4
		f.Source.Facts.Value.QEMUVer = migrate.Version{Major: 10, Minor: 1}
		f.Dest.Facts.Value.QEMUVer = migrate.Version{Major: 11}
	}, "", false, ""},
	{"multifd on new and old QEMU", func(f *Facts) {
		f.Params.Parallel = 4
		f.Dest.Facts.Value.QEMUVer = migrate.Version{Major: 10, Minor: 1}
	}, IDPostcopyMultifd, true, "both hosts"},
	{"multifd on an unknown QEMU", func(f *Facts) {
		f.Params.Parallel = 4
		f.Dest.Facts.Value.QEMUVer = migrate.Version{}
	}, IDPostcopyMultifd, false, "may not"},
	{"assigned device", device("hostdev"), IDPostcopyDevice, true, "assigned"},
	{"shared directory", device("virtiofs"), IDPostcopyDevice, true, "directory"},
	{"vhost-user", device("vhost-user"), IDPostcopyDevice, false, "vhost-user"},
	{"vhost-user card", func(f *Facts) {
		both(f, func(d *migrate.DomainFacts) { d.NICs = []migrate.NIC{{Kind: "vhostuser"}} })
	}, IDPostcopyDevice, false, "vhost-user"},
	{"balloon", device("balloon"), "", false, ""},
	{"file on tmpfs", backing(migrate.BackingFile, Known("tmpfs")), "", false, ""},
	{"file on hugetlbfs", backing(migrate.BackingFile, Known("hugetlbfs")), "", false, ""},
	{"file on ext4", backing(migrate.BackingFile, Known("ext2/ext3")), IDPostcopyBacking, true, "tmpfs"},
	{"file somewhere", backing(migrate.BackingFile, CouldNotTell[string]("hm")), IDPostcopyBacking, false, "may not"},
	{"memfd", backing(migrate.BackingMemfd, Answer[string]{}), "", false, ""},
	{"no userfaultfd", func(f *Facts) { f.Userfault.Value.Missing = true }, IDPostcopyUserfault, true, "may not use"},
	{"userfaultfd unknown", func(f *Facts) { f.Userfault = CouldNotTell[UserfaultFacts]("hm") }, IDPostcopyUserfault, false, "may not be allowed"},
}

func device(kind string) func(*Facts) {
	return func(f *Facts) {
		both(f, func(d *migrate.DomainFacts) { d.Devices = []migrate.Device{{Kind: kind, Alias: "d0"}} })
	}
}

func backing(b migrate.Backing, fs Answer[string]) func(*Facts) {
	return func(f *Facts) {
		f.RAMFilesystem = fs
		both(f, func(d *migrate.DomainFacts) { d.Backing = b })
	}
}

func TestResolve(t *testing.T) {
	for _, tc := range obstacleCases {
		t.Run(tc.name, func(t *testing.T) {
			f := goodFacts()
			tc.change(&f)
			p, why, err := Resolve(f, f.Params)
			want := migrate.StrategyHybrid
			if tc.id != "" {
				want = migrate.StrategyPrecopy
			}
			if err != nil || p.Strategy != want || why == "" || !strings.Contains(why, tc.says) {
				t.Errorf("auto: %s because %q, %v; want %s", p.Strategy, why, err, want)
			}
			for _, asked := range []migrate.Strategy{migrate.StrategyPostcopy, migrate.StrategyHybrid} {
				f.Params.Strategy = asked
				p, _, err := Resolve(f, f.Params)
				if (err != nil) != tc.certain || p.Strategy != asked {
					t.Errorf("%s: %s, %v", asked, p.Strategy, err)
				}
				if err != nil && (!errors.Is(err, migrate.ErrNotSupported) || migrate.FixOf(err) == "") {
					t.Errorf("%s: %v, fix %q", asked, err, migrate.FixOf(err))
				}
			}
			f.Params.Strategy = migrate.StrategyPrecopy
			if p, _, err := Resolve(f, f.Params); err != nil || p.Strategy != migrate.StrategyPrecopy {
				t.Errorf("precopy: %s, %v", p.Strategy, err)
			}
		})
	}
	if _, _, err := Resolve(goodFacts(), migrate.Params{Strategy: "warp"}); err == nil {
		t.Error("no error for a strategy that does not exist")
	}
}

// The same obstacle is a blocker for who asked for post-copy, information for who left it open, and unknown if it is
// not certain; pre-copy does not care.
func TestRulePostcopy(t *testing.T) {
	for _, tc := range obstacleCases {
		t.Run(tc.name, func(t *testing.T) {
			want := map[migrate.Strategy]Severity{
				migrate.StrategyAuto: Info, migrate.StrategyPostcopy: Blocker, migrate.StrategyHybrid: Blocker, migrate.StrategyPrecopy: "",
			}
			for strategy, sev := range want {
				f := goodFacts()
				tc.change(&f)
				f.Params.Strategy = strategy
				if !tc.certain && sev != "" {
					sev = Unknown
				}
				got := Severity("")
				for _, x := range rulePostcopy(f) {
					if x.ID != tc.id || x.Fix == "" {
						t.Errorf("%s: finding %+v", strategy, x)
					}
					got = x.Severity
				}
				if tc.id == "" {
					sev = ""
				}
				if got != sev {
					t.Errorf("%s: severity %q, want %q", strategy, got, sev)
				}
			}
		})
	}
}

func TestStrategies(t *testing.T) {
	for _, c := range Strategies(goodFacts()) {
		if !c.Possible || !c.Certain || len(c.Why) > 0 {
			t.Errorf("good facts: %+v", c)
		}
	}
	for _, tc := range obstacleCases {
		f := goodFacts()
		tc.change(&f)
		cs := Strategies(f)
		if len(cs) != 3 || !cs[0].Possible {
			t.Fatalf("%s: %+v", tc.name, cs)
		}
		for _, c := range cs[1:] {
			if c.Possible != (tc.id == "" || !tc.certain) || c.Certain != (tc.id == "" || tc.certain) || (len(c.Why) > 0) != (tc.id != "") {
				t.Errorf("%s: %+v", tc.name, c)
			}
		}
	}
}

func TestUserfault(t *testing.T) {
	qemu := Account{Name: "libvirt-qemu", UID: 64055, GIDs: []uint32{107}}
	off := func(change func(*UserfaultFacts)) UserfaultFacts {
		u := goodUserfault()
		u.Sysctl = Known("0\n")
		change(&u)
		return u
	}
	dev := func(mode, gid uint32) Answer[*sys.FileInfo] {
		return Known(&sys.FileInfo{Mode: 0o020000 | mode, GID: gid})
	}
	tests := []struct {
		name               string
		a                  Answer[UserfaultFacts]
		permitted, certain bool
	}{
		{"not asked", Answer[UserfaultFacts]{}, false, false},
		{"sysctl on", Known(goodUserfault()), true, true},
		{"sysctl on beats a missing answer", Known(UserfaultFacts{Sysctl: Known("1")}), true, true},
		{"sysctl off, no device", Known(off(func(*UserfaultFacts) {})), false, true},
		{"kernel without", Known(UserfaultFacts{Missing: true, Sysctl: CouldNotTell[string]("x")}), false, true},
		{"privileged", Known(off(func(u *UserfaultFacts) { u.Privileged = Known(true) })), true, true},
		{"device for others", Known(off(func(u *UserfaultFacts) { u.Device = dev(0o666, 0) })), true, true},
		{"device for the group", Known(off(func(u *UserfaultFacts) { u.Device = dev(0o660, 107) })), true, true},
		{"device for another group", Known(off(func(u *UserfaultFacts) { u.Device = dev(0o660, 36) })), false, true},
		{"device to read only", Known(off(func(u *UserfaultFacts) { u.Device = dev(0o664, 0) })), false, true},
		{"device hidden by the ACL", Known(off(func(u *UserfaultFacts) { u.Device, u.DeviceAllowed = dev(0o666, 0), false })), false, true},
		{"device and root", Known(off(func(u *UserfaultFacts) { u.Device, u.User = dev(0o600, 0), Known(Account{Name: "root"}) })), true, true},
		{"device, user unknown", Known(off(func(u *UserfaultFacts) { u.Device, u.User = dev(0o600, 0), CouldNotTell[Account]("x") })), false, false},
		{"sysctl unknown", Known(off(func(u *UserfaultFacts) { u.Sysctl = CouldNotTell[string]("x") })), false, false},
		{"device unknown", Known(off(func(u *UserfaultFacts) { u.Device = CouldNotTell[*sys.FileInfo]("x") })), false, false},
		{"privileges unknown", Known(off(func(u *UserfaultFacts) { u.Privileged = CouldNotTell[bool]("x") })), false, false},
	}
	for _, tc := range tests {
		permitted, certain, why := userfault(tc.a)
		if permitted != tc.permitted || certain != tc.certain || permitted == (why != "") {
			t.Errorf("%s: permitted %t certain %t %q", tc.name, permitted, certain, why)
		}
	}
	if _, _, why := userfault(Known(off(func(*UserfaultFacts) {}))); !strings.Contains(why, qemu.Name) {
		t.Errorf("%q does not name %s", why, qemu.Name)
	}
}

// TestRuleRecovery: told to those whose migration would be a post-copy, of the two libvirt releases that cannot recover.
func TestRuleRecovery(t *testing.T) {
	no := func(*Facts) {}
	for _, tc := range []struct {
		name   string
		ver    migrate.Version
		change func(*Facts)
		want   bool
	}{
		{"11.2.0, resolved", migrate.Version{Major: 11, Minor: 2}, no, true},
		{"11.3.7, resolved", migrate.Version{Major: 11, Minor: 3, Micro: 7}, no, true},
		{"asked for", migrate.Version{Major: 11, Minor: 3}, func(f *Facts) { f.Params.Strategy = migrate.StrategyPostcopy }, true},
		{"on timeout", migrate.Version{Major: 11, Minor: 3}, func(f *Facts) {
			f.Params.Strategy, f.Params.TimeoutPostcopy = migrate.StrategyPrecopy, true
		}, true},
		{"pre-copy", migrate.Version{Major: 11, Minor: 3}, func(f *Facts) { f.Params.Strategy = migrate.StrategyPrecopy }, false},
		{"pre-copy, resolved", migrate.Version{Major: 11, Minor: 3}, func(f *Facts) { f.Userfault.Value.Missing = true; f.Userfault.Value.Sysctl = Answer[string]{} }, false},
		{"no guest", migrate.Version{Major: 11, Minor: 3}, func(f *Facts) { f.Guest = Known[*migrate.DomainFacts](nil) }, false},
		{"the source's", migrate.Version{Major: 11, Minor: 4}, func(f *Facts) { f.Source.Facts.Value.LibVer = migrate.Version{Major: 11, Minor: 3} }, false},
		{"11.1.9", migrate.Version{Major: 11, Minor: 1, Micro: 9}, no, false},
		{"11.4.0", migrate.Version{Major: 11, Minor: 4}, no, false},
		{"9.0.0", migrate.Version{Major: 9}, no, false},
		{"not known, or bare QEMU", migrate.Version{}, no, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := goodFacts()
			f.Dest.Facts.Value.LibVer = tc.ver
			tc.change(&f)
			var got []Finding
			for _, x := range Evaluate(f) {
				if x.ID == IDPostcopyRecovery {
					got = append(got, x)
				}
			}
			switch {
			case !tc.want && len(got) == 0:
			case !tc.want, len(got) != 1, got[0].Severity != Info, got[0].Side != migrate.SideDestination, !strings.Contains(got[0].Fix, "11.4"):
				t.Errorf("found %+v, want one: %v", got, tc.want)
			}
		})
	}
}
