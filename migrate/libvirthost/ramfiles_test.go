package libvirthost

import (
	"fmt"
	"testing"
)

const sharedBacking = `<memoryBacking><source type='file'/><access mode='shared'/></memoryBacking>`

// domainWith is a domain's XML with what is at stake.
func domainWith(backing, cpu, devices string) string {
	return fmt.Sprintf(`<domain type='kvm'><name>web</name><uuid>7f000000-0000-4000-8000-000000000001</uuid>
<memory unit='GiB'>2</memory><vcpu>2</vcpu>%s<os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type></os>%s
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>%s</devices></domain>`, backing, cpu, devices)
}

// TestRAMFiles: all of the guest's RAM has to be shared files, and libvirt makes files of all shared memory but memfds.
func TestRAMFiles(t *testing.T) {
	numa := func(a, b string) string {
		return `<cpu><numa><cell id='0' cpus='0' memory='1' unit='GiB'` + a + `/><cell id='1' cpus='1' memory='1' unit='GiB'` + b + `/></numa></cpu>`
	}
	const shared, private = ` memAccess='shared'`, ` memAccess='private'`
	for name, c := range map[string]struct {
		backing, cpu, devices string
		want                  bool
	}{
		"none":                           {"", "", "", false},
		"file, shared":                   {sharedBacking, "", "", true},
		"file alone":                     {`<memoryBacking><source type='file'/></memoryBacking>`, "", "", false},
		"shared alone":                   {`<memoryBacking><access mode='shared'/></memoryBacking>`, "", "", true},
		"memfd, shared":                  {`<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>`, "", "", false},
		"huge pages, shared":             {`<memoryBacking><hugepages/><access mode='shared'/></memoryBacking>`, "", "", true},
		"huge pages alone":               {`<memoryBacking><hugepages/></memoryBacking>`, "", "", false},
		"cells shared":                   {"", numa(shared, shared), "", true},
		"one cell shared":                {"", numa(shared, ""), "", false},
		"one cell private":               {sharedBacking, numa("", private), "", false},
		"cells as the rest":              {sharedBacking, numa("", ""), "", true},
		"a module shared as the rest":    {sharedBacking, "", `<memory model='dimm'><target><size unit='GiB'>1</size></target></memory>`, true},
		"a module private":               {sharedBacking, "", `<memory model='dimm' access='private'><target><size unit='GiB'>1</size></target></memory>`, false},
		"private by name, cells besides": {`<memoryBacking><access mode='private'/></memoryBacking>`, numa(shared, shared), "", true},
	} {
		f, err := FactsOf(domainWith(c.backing, c.cpu, c.devices))
		if err != nil || f.RAMFiles != c.want {
			t.Errorf("%s: %v, %v", name, f.RAMFiles, err)
		}
	}
}
