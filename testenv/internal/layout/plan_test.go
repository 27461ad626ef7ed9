package layout

import (
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/testenv/link"
)

func mustPlan(t *testing.T) Plan {
	t.Helper()
	p, err := New("demo", "/var/tmp/vmmigrate-lab", []string{"a", "b"}, link.Spec{Rate: 1e9})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPlan(t *testing.T) {
	p := mustPlan(t)
	a, b := p.Hosts[0], p.Hosts[1]
	if got, want := a.URI(), "qemu+unix:///system?socket=/var/tmp/vmmigrate-lab/demo/a/run/libvirt/libvirt-sock"; got != want {
		t.Errorf("URI %s, want %s", got, want)
	}
	if a.Address.String() != "10.77.0.1/24" || b.Address.String() != "10.77.0.2/24" {
		t.Errorf("addresses %v, %v", a.Address, b.Address)
	}
	if a.UUID == b.UUID || a.UUID == "" {
		t.Errorf("host UUIDs %q, %q: migration between equal ones is refused", a.UUID, b.UUID)
	}
	if again := mustPlan(t); again.Hosts[0] != a {
		t.Errorf("the plan of the same lab differs: %+v, %+v", again.Hosts[0], a)
	}
	if _, err := p.Host("c"); err == nil || !strings.Contains(err.Error(), "a, b") {
		t.Errorf("unknown host: %v", err)
	}
}

func TestPlanRefuses(t *testing.T) {
	long := "/" + strings.Repeat("x", 90)
	for _, c := range []struct {
		name, root string
		hosts      []string
		want       string
	}{
		{"Demo", "/t", []string{"a"}, "lab name"},
		{"../x", "/t", []string{"a"}, "lab name"},
		{"", "/t", []string{"a"}, "lab name"},
		{"demo", "t", []string{"a"}, "not absolute"},
		{"demo", "/run/lab", []string{"a"}, "a /run of its own"},
		{"demo", "/etc", []string{"a"}, "of its own"},
		{"demo", "/tmp/../run", []string{"a"}, "of its own"},
		{"demo", "/t", nil, "1 to 16 hosts"},
		{"demo", "/t", HostNames(17), "1 to 16 hosts"},
		{"demo", "/t", []string{"a", "a"}, "given twice"},
		{"demo", "/t", []string{"localhost"}, "host name"},
		{"demo", "/t", []string{"a/b"}, "host name"},
		{"demo", "/t", []string{"far-too-long"}, "host name"},
		{"demo", long, []string{"a"}, "VMMIGRATE_LAB_DIR"},
	} {
		_, err := New(c.name, c.root, c.hosts, link.Spec{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("New(%q, %q, %v): error %v does not say %q", c.name, c.root, c.hosts, err, c.want)
		}
	}
	if _, err := New("demo", "/runner", []string{"a"}, link.Spec{}); err != nil {
		t.Errorf("/runner is not below /run: %v", err)
	}
	if _, err := New("demo", "/t", []string{"a"}, link.Spec{Loss: 2}); err == nil {
		t.Error("an impossible link is accepted")
	}
}

func TestSocketLimitIsExact(t *testing.T) {
	for n := 1; n < 120; n++ {
		p, err := New("demo", "/"+strings.Repeat("x", n), []string{"a"}, link.Spec{})
		if err != nil {
			if n < 20 {
				t.Fatalf("root of %d bytes is refused: %v", n, err)
			}
			return
		}
		for _, s := range []string{p.ControlSocket(), p.Hosts[0].Socket(), p.Hosts[0].GuestMonitor(strings.Repeat("x", MaxGuestName))} {
			if len(s) > maxSocketPath {
				t.Fatalf("socket path of %d bytes passes: %s", len(s), s)
			}
		}
	}
	t.Fatal("no root is too long")
}

func TestDeviceNamesFit(t *testing.T) {
	h := Host{Name: "abcdefgh"}
	for _, n := range []string{h.WireMigration(), h.WireGuest(), h.WireTap()} {
		if len(n) > 15 {
			t.Errorf("device name %q has %d bytes", n, len(n))
		}
	}
}

func TestGuestAddresses(t *testing.T) {
	seen := map[string]bool{ClientAddress.Addr().String(): true}
	for i := range MaxGuests {
		a, err := GuestAddress(i)
		if err != nil {
			t.Fatal(err)
		}
		if seen[a.Addr().String()] || seen[GuestMAC(i)] || !ClientAddress.Contains(a.Addr()) {
			t.Fatalf("guest %d: %v, %s is taken or outside the network", i, a, GuestMAC(i))
		}
		seen[a.Addr().String()], seen[GuestMAC(i)] = true, true
	}
	if _, err := GuestAddress(MaxGuests); err == nil {
		t.Error("an address past the end is given")
	}
}

func TestGuestNames(t *testing.T) {
	for _, ok := range []string{"web", "db-1", "A.b_c", strings.Repeat("x", MaxGuestName)} {
		if err := CheckGuestName(ok); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "-x", "../x", "a b", "a/b", ".x", strings.Repeat("x", MaxGuestName+1), "a\n"} {
		if CheckGuestName(bad) == nil {
			t.Errorf("guest name %q is accepted", bad)
		}
	}
}

func TestEtcFiles(t *testing.T) {
	p := mustPlan(t)
	files := p.EtcFiles(p.Hosts[1])
	for path, want := range map[string]string{
		"hosts":                       "10.77.0.1 a\n10.77.0.2 b\n",
		"hostname":                    "b\n",
		"libvirt/libvirtd.conf":       `host_uuid = "` + p.Hosts[1].UUID + `"`,
		"libvirt/qemu.conf":           `migration_address = "10.77.0.2"`,
		"libvirt/storage/default.xml": "<path>/var/lib/libvirt/images</path>",
	} {
		if !strings.Contains(files[path], want) {
			t.Errorf("%s does not hold %q:\n%s", path, want, files[path])
		}
	}
	own := EtcPrivate()
	for path := range files {
		top, _, _ := strings.Cut(path, "/")
		if !strings.Contains(" "+strings.Join(own, " ")+" ", " "+top+" ") {
			t.Errorf("%s is written through a link into the machine's /etc", path)
		}
	}
}
