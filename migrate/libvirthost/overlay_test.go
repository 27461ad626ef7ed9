package libvirthost

import (
	"errors"
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
)

func TestWithOverlays(t *testing.T) {
	below := func(target, socket string) string {
		return `<backingStore type='network'><format type='raw'/><source protocol='nbd' name='` + target + `'><host transport='unix' socket='` + socket +
			`'/><reconnect delay='2592000'/></source><backingStore/></backingStore>`
	}
	got, err := WithOverlays(disksText, []migrate.Overlay{{Target: "vdb", Path: "/n/b'", Socket: "/s/b"}, {Target: "vda", Path: "/n/a", Socket: "/s/a"}})
	if err != nil {
		t.Fatal(err)
	}
	want := disksText
	for _, c := range [][2]string{
		{`<driver name='qemu' type='qcow2' cache='none'>`, `<driver name='qemu' cache='none' type='qcow2' discard='unmap'>`},
		{`<source file='/i/a&amp;b.qcow2' index='1'><seclabel model='dac' relabel='no'/></source>`, `<source file='/n/a'/>` + below("vda", "/s/a")},
		{`<backingStore type='file' index='3'><format type='qcow2'/><source file='/i/base'/><backingStore/></backingStore>`, ``},
		{`<disk type='block' device='disk'><source dev='/dev/vg/b'/>`, `<disk type='file' device='disk'><driver name='qemu' type='qcow2' discard='unmap'/><source file='/n/b&#39;'/>` + below("vdb", "/s/b")},
	} {
		if strings.Count(want, c[0]) != 1 {
			t.Fatalf("%q is there %d times", c[0], strings.Count(want, c[0]))
		}
		want = strings.Replace(want, c[0], c[1], 1)
	}
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// A guest that ends before its disks are whole must find overlays in its definition, too.
func TestOnOverlaysDefines(t *testing.T) {
	overlays := []migrate.Overlay{{Target: "vda", Path: "/n/a", Socket: "/s/a"}, {Target: "vdb", Path: "/n/b", Socket: "/s/b"}}
	without, _, _ := strings.Cut(disksText, "<disk type='block'")
	without += "</devices></domain>"
	for name, p := range map[string]migrate.Params{"the source's": {Persistent: true}, "the user's": {Persistent: true, PersistentXML: without}} {
		got, err := new(Host).OnOverlays(migrate.Offer{XML: disksText, Definition: disksText}, p, overlays)
		if err != nil {
			t.Fatal(err)
		}
		text, both := got.PersistentXML, name == "the source's"
		if strings.Count(text, "/s/a") != 1 || strings.Contains(text, "unmap") || strings.Contains(text, "/i/a&amp;b.qcow2") || strings.Contains(text, "/n/b") != both {
			t.Errorf("%s becomes\n%s", name, text)
		}
	}
	if got, err := new(Host).OnOverlays(migrate.Offer{XML: disksText}, migrate.Params{}, overlays); err != nil || got.PersistentXML != "" {
		t.Errorf("%q is to be defined, %v", got.PersistentXML, err)
	}
}

func TestWithOverlaysRefuses(t *testing.T) {
	if _, err := WithOverlays(disksText, []migrate.Overlay{{Target: "vdz", Path: "/x"}}); err == nil || !strings.Contains(err.Error(), "no disk vdz") {
		t.Errorf("%v", err)
	}
	if _, err := WithOverlays(disksText, []migrate.Overlay{{Target: "vde", Path: "/x"}}); !errors.Is(err, migrate.ErrNotSupported) {
		t.Errorf("%v", err)
	}
}
