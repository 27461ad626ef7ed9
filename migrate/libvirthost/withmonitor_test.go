package libvirthost

import (
	"encoding/xml"
	"strings"
	"testing"

	"libvirt.org/go/libvirtxml"
)

// qemuArgs are the arguments for QEMU as libvirt would read them.
func qemuArgs(t *testing.T, text string) []string {
	t.Helper()
	var d libvirtxml.Domain
	if err := d.Unmarshal(text); err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	var out []string
	if d.QEMUCommandline != nil {
		for _, a := range d.QEMUCommandline.Args {
			out = append(out, a.Value)
		}
	}
	return out
}

const monitorArgs = "-chardev socket,id=vmmigrate-monitor,path=/run/x.qmp,server=on,wait=off -mon chardev=vmmigrate-monitor,mode=control"

func TestWithMonitor(t *testing.T) {
	const devices = `<name>g</name><devices><disk type='file'><source file='/a &amp; b'/></disk></devices>`
	ours := func(path string) string {
		return `<qemu:arg value='-chardev'/><qemu:arg value='socket,id=vmmigrate-monitor,path=` + path +
			`,server=on,wait=off'/><qemu:arg value='-mon'></qemu:arg><qemu:arg value='chardev=vmmigrate-monitor,mode=control'/>`
	}
	for name, c := range map[string]struct {
		xml  string
		want string // all arguments, with the path /run/x.qmp
		has  string // the path that is there already
	}{
		"none":                 {`<domain type='kvm'>` + devices + `</domain>`, monitorArgs, ""},
		"declared, none":       {`<domain type='kvm' xmlns:qemu='` + qemuNS + `'>` + devices + "\n</domain>\n", monitorArgs, ""},
		"with a declaration":   {`<?xml version='1.0' encoding='UTF-8'?><!-- x --><domain type='kvm'>` + devices + `</domain>`, monitorArgs, ""},
		"empty":                {`<domain xmlns:qemu='` + qemuNS + `'>` + devices + `<qemu:commandline/></domain>`, monitorArgs, ""},
		"others":               {`<domain xmlns:qemu='` + qemuNS + `'><qemu:commandline><qemu:arg value='-s'/></qemu:commandline>` + devices + `</domain>`, "-s " + monitorArgs, ""},
		"another prefix":       {`<domain><q:commandline xmlns:q='` + qemuNS + `'><q:arg value='-s'/><q:env name='A' value='b'/></q:commandline>` + devices + `</domain>`, "-s " + monitorArgs, ""},
		"a user's own monitor": {`<domain xmlns:qemu='` + qemuNS + `'><qemu:commandline><qemu:arg value='-qmp'/><qemu:arg value='unix:/run/u.qmp,server=on'/></qemu:commandline></domain>`, "-qmp unix:/run/u.qmp,server=on " + monitorArgs, ""},
		"ours already":         {`<domain xmlns:qemu='` + qemuNS + `'><qemu:commandline><qemu:arg value='-s'></qemu:arg>` + ours("/run/old.qmp") + `</qemu:commandline>` + devices + `</domain>`, "-s " + strings.Replace(monitorArgs, "-mon ", "-mon ", 1), "/run/old.qmp"},
		"not libvirt's words":  {`<domain><metadata><commandline><arg value='-x'/></commandline></metadata><commandline><arg value='-y'/></commandline></domain>`, monitorArgs, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if out, at, err := WithMonitor(c.xml, ""); err != nil || at != c.has || out != c.xml {
				t.Errorf("looked at: %q, %v, changed: %v", at, err, out != c.xml)
			}
			out, at, err := WithMonitor(c.xml, "/run/x.qmp")
			if err != nil || at != "/run/x.qmp" {
				t.Fatal(at, err)
			}
			if got := strings.Join(qemuArgs(t, out), " "); got != c.want {
				t.Errorf("arguments\n%s, want\n%s\n%s", got, c.want, out)
			}
			if c.has == "" && strings.Contains(c.xml, devices) && !strings.Contains(out, devices) {
				t.Errorf("the rest was changed:\n%s", out)
			}
			again, at, err := WithMonitor(out, "/run/x.qmp")
			if err != nil || at != "/run/x.qmp" || strings.Join(qemuArgs(t, again), " ") != c.want {
				t.Errorf("a second time: %q, %v:\n%s", at, err, again)
			}
			if _, at, err := WithMonitor(out, ""); err != nil || at != "/run/x.qmp" {
				t.Errorf("not found again: %q, %v", at, err)
			}
		})
	}
}

func TestWithMonitorRefuses(t *testing.T) {
	const good = `<domain><name>g</name></domain>`
	for name, c := range map[string]struct{ xml, path string }{
		"no XML":        {"nonsense", "/x"},
		"another root":  {"<network/>", "/x"},
		"empty root":    {"<domain/>", "/x"},
		"cut short":     {"<domain><name>", "/x"},
		"nothing":       {"", "/x"},
		"a comma":       {good, "/x,server=off"},
		"relative":      {good, "x"},
		"too long":      {good, "/" + strings.Repeat("x", 107)},
		"a line's end":  {good, "/x\n"},
		"a zero":        {good, "/x\x00"},
		"wrong nesting": {"<domain><a></domain></a>", "/x"},
	} {
		if out, at, err := WithMonitor(c.xml, c.path); err == nil {
			t.Errorf("%s: %q, %s", name, at, out)
		}
	}
}

// FuzzWithMonitor: what comes out is XML with exactly one monitor of ours, or an error.
func FuzzWithMonitor(f *testing.F) {
	f.Add(`<domain xmlns:qemu='` + qemuNS + `'><qemu:commandline><qemu:arg value='-s'/></qemu:commandline></domain>`)
	f.Add(`<domain><a/><!-- </domain> --></domain>`)
	f.Fuzz(func(t *testing.T, text string) {
		out, _, err := WithMonitor(text, "/run/x.qmp")
		if err != nil {
			return
		}
		dec := xml.NewDecoder(strings.NewReader(out))
		n := 0
		for {
			tok, err := dec.Token()
			if err != nil {
				if n != 1 && strings.Count(text, monitorID) == 0 {
					t.Errorf("%d monitors, %v:\n%s\n%s", n, err, text, out)
				}
				return
			}
			if e, ok := tok.(xml.StartElement); ok && e.Name.Space == qemuNS && e.Name.Local == "arg" {
				for _, a := range e.Attr {
					if a.Name.Local == "value" && a.Value == chardev("/run/x.qmp") {
						n++
					}
				}
			}
		}
	})
}
