package qemuhost

import (
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
)

func likeness() guest {
	return guest{Name: "guest", UUID: "u", Machine: "pc-q35-10.0", Accel: "tcg", CPU: "qemu64-x86_64-cpu", Memory: 1 << 30, VCPUs: 2,
		RAM:     []ramBlock{{Name: "pc.ram", Size: 1 << 30}, {Name: "/rom@etc/acpi/tables", Size: 1 << 17}},
		Devices: []device{{ID: "vda", Type: "virtio-blk-pci"}, {ID: "device[0]", Type: "e1000"}},
		Disks:   []disk{{Target: "vda", Node: "n", Capacity: 5}, {Target: "cd", Removable: true, ReadOnly: true, Empty: true}}}
}

func TestCompare(t *testing.T) {
	if ds := compare(likeness(), likeness()); len(ds) > 0 {
		t.Errorf("two that are alike: %v", ds)
	}
	for what, change := range map[string]func(*guest){
		"UUID":           func(g *guest) { g.UUID = "v" },
		"machine type":   func(g *guest) { g.Machine = "pc-q35-9.0" },
		"accelerator":    func(g *guest) { g.Accel = "kvm" },
		"CPU":            func(g *guest) { g.CPU = "max-x86_64-cpu" },
		"vCPUs":          func(g *guest) { g.VCPUs = 1 },
		"MiB of RAM":     func(g *guest) { g.Memory = 1 << 29 },
		"RAM block":      func(g *guest) { g.RAM[0].Name = "ram0" },
		"missing here":   func(g *guest) { g.Devices = g.Devices[:1] },
		"not there":      func(g *guest) { g.Devices = append(g.Devices, device{"extra", "virtio-rng-pci", ""}) },
		"is e1000 there": func(g *guest) { g.Devices[1].Type = "rtl8139" },
		"disk vda has":   func(g *guest) { g.Disks[0].Capacity = 6 },
		"disk vda there": func(g *guest) { g.Disks[0].Target = "vdx" },
		"has a medium":   func(g *guest) { g.Disks[0].Empty = true },
	} {
		dst := likeness()
		change(&dst)
		err := compared(compare(likeness(), dst))
		wantIs(t, err, migrate.ErrBlocked)
		wantMentions(t, err, what)
	}
	src, dst := likeness(), likeness()
	src.UUID, dst.RAM, dst.Disks[1].Empty = "", nil, false
	if ds := compare(src, dst); len(ds) > 0 {
		t.Errorf("what is not known must not forbid: %v", ds)
	}
}

func TestChooseDisks(t *testing.T) {
	disks := []disk{{Target: "vda", Node: "a"}, {Target: "vdb", Node: "b", ReadOnly: true}, {Target: "cd", Removable: true, ReadOnly: true}}
	for want, p := range map[string]migrate.Params{
		"":        {},
		"vda":     {CopyStorage: migrate.CopyAll},
		"vda,vdb": {CopyStorage: migrate.CopyInc, MigrateDisks: []string{"vdb", "vda"}},
	} {
		got, err := chooseDisks(disks, p)
		var names []string
		for _, d := range got {
			names = append(names, d.Target)
		}
		if err != nil || strings.Join(names, ",") != want {
			t.Errorf("%+v: %v, %v; want %q", p, names, err, want)
		}
	}
	if _, err := chooseDisks(disks, migrate.Params{CopyStorage: migrate.CopyAll, MigrateDisks: []string{"vdz"}}); err == nil {
		t.Error("a disk that is not there was chosen")
	}
}

func TestCookies(t *testing.T) {
	g := likeness()
	o, err := makeOffer(g, offerCookie{Version: cookieVersion, Live: true})
	if err != nil {
		t.Fatal(err)
	}
	if c, err := readOffer(o); err != nil || !c.Live {
		t.Errorf("%+v, %v", c, err)
	}
	back, err := decodeGuest(o)
	if err != nil || len(compare(g, back)) > 0 {
		t.Errorf("%+v, %v", back, err)
	}
	for name, b := range map[string][]byte{"nothing": nil, "text": []byte("x"), "another version": []byte(`{"version":2}`),
		"no version": []byte(`{}`), "too long": make([]byte, maxCookie+1)} {
		if _, err := readOffer(migrate.Offer{Cookie: b}); err == nil {
			t.Errorf("%s was taken for an offer's cookie", name)
		}
		if _, err := readTicket(migrate.Ticket{Cookie: b}); err == nil {
			t.Errorf("%s was taken for a ticket's cookie", name)
		}
	}
}

func FuzzCookies(f *testing.F) {
	f.Add([]byte(`{"version":1,"saved":{"caps":{"a":true},"params":{"p":1}},"nbd":{"type":"inet"},"live":true}`), `{"ram":[{"name":"x"}]}`)
	f.Fuzz(func(_ *testing.T, b []byte, xml string) {
		_, _ = readOffer(migrate.Offer{Cookie: b})
		_, _ = readTicket(migrate.Ticket{Cookie: b})
		_, _ = decodeGuest(migrate.Offer{XML: xml})
	})
}

func TestNamesOfDevices(t *testing.T) {
	for qom, want := range map[string]string{"vfio-pci": "hostdev", "vhost-user-fs-pci": "virtiofs", "vhost-user-blk-pci": "vhost-user",
		"virtio-balloon-pci": "memballoon", "virtio-mem-pci": "virtio-mem", "usb-host": "usb", "tpm-tis": "tpm", "virtio-net-pci": ""} {
		if got := deviceKind(qom); got != want {
			t.Errorf("%s is %q, want %q", qom, got, want)
		}
	}
	if got := cpuOption("qemu64-x86_64-cpu"); got != "qemu64" {
		t.Errorf("the CPU is %q", got)
	}
	if got := safeID("/a b\xff"); strings.ContainsAny(got, "/ ") {
		t.Errorf("%q is no id", got)
	}
}
