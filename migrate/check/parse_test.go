package check

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate"
)

func TestParseQEMUConf(t *testing.T) {
	text := `
# user = "nobody"
user = "qemu-x"
group = '+107' # who
migration_host = "b.example"
migration_address="0.0.0.0"
migration_port_min = 50000
 migration_port_max = 50010
default_tls_x509_cert_dir = "/pki/default"
memory_backing_dir = "/dev/shm/ram"
clear_emulator_capabilities = 0
cgroup_device_acl = [
    "/dev/null", "/dev/full", # "/dev/zero",
    "/dev/userfaultfd"
]
default_tls_x509_verify = 0
vnc_listen = "x ] # y"
nonsense
last = 5`
	want := QEMUConf{User: "qemu-x", Group: "+107", MigrationHost: "b.example", MigrationAddress: "0.0.0.0", PortMin: 50000, PortMax: 50010,
		DefaultTLSDir: "/pki/default", MemoryDir: "/dev/shm/ram", KeepCapabilities: true,
		DeviceACL: []string{"/dev/null", "/dev/full", "/dev/userfaultfd"}}
	if diff := cmp.Diff(want, parseQEMUConf([]byte(text))); diff != "" {
		t.Error(diff)
	}
	empty := parseQEMUConf(nil)
	if diff := cmp.Diff(QEMUConf{TLSVerify: true}, empty); diff != "" {
		t.Error(diff)
	}
	if low, high := empty.ports(); low != 49152 || high != 49215 || !empty.seesUserfault() || empty.memoryDir() != defaultMemoryDir {
		t.Error("the defaults are not libvirt's")
	}
	if (QEMUConf{DeviceACL: []string{"/dev/null"}}).seesUserfault() {
		t.Error("an ACL without the device lets it be seen")
	}
}

func FuzzParseConf(f *testing.F) {
	f.Add([]byte("a = [ \"x\",\n 'y' ]\nb = 5 # c"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) <= maxFile {
			parseQEMUConf(b)
			_, _ = parseAccount(b, b, "x")
			_ = parseListeners(b, map[int]bool{})
			parseHosts(b, "x")
			_, _ = parsePtrace(b)
			_, _ = parseStat(string(b))
			parseAhosts(b)
		}
	})
}

func TestParseAccount(t *testing.T) {
	passwd := []byte("root:x:0:0:root:/root:/bin/sh\nbad:x\nqemu:x:64055:107:,,,:/:/bin/false\n")
	group := []byte("root:x:0:\nkvm:x:107:\ndisk:x:6:other,qemu\nshort:x\nbad:x:y:qemu\n")
	for who, want := range map[string]Account{
		"qemu":   {"qemu", 64055, []uint32{107, 6}},
		"+64055": {"qemu", 64055, []uint32{107, 6}},
		"0":      {"root", 0, []uint32{0}},
		"+99":    {"+99", 99, nil},
	} {
		got, ok := parseAccount(passwd, group, who)
		if diff := cmp.Diff(want, got); !ok || diff != "" {
			t.Errorf("%s: %t %s", who, ok, diff)
		}
	}
	if got, ok := parseAccount(passwd, group, "nobody"); ok {
		t.Errorf("nobody is %+v", got)
	}
}

func TestParseTables(t *testing.T) {
	tcp := []byte("  sl  local_address rem_address   st tx_queue\n" +
		"   0: 0100007F:0016 00000000:0000 0A 00000000:00000000\n" +
		"   1: 0100007F:C000 0100007F:0016 01 00000000:00000000\n" +
		"   2: 00000000000000000000000000000000:C001 00000000000000000000000000000000:0000 0A 0\n")
	ports := map[int]bool{}
	if err := parseListeners(tcp, ports); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[int]bool{22: true, 0xC001: true}, ports); diff != "" {
		t.Error(diff)
	}
	if err := parseListeners([]byte("head\n 0: 0100007F:ZZ 0:0 0A\n"), ports); err == nil {
		t.Error("no error for a bad address")
	}
	hosts := []byte("127.0.0.1 localhost\n192.0.2.2\tB.example b # b2\n#192.0.2.3 b\n2001:db8::2 b\n")
	if diff := cmp.Diff([]string{"192.0.2.2", "2001:db8::2"}, parseHosts(hosts, "b")); diff != "" {
		t.Error(diff)
	}
	if got := parseHosts(hosts, "b2"); got != nil {
		t.Errorf("a comment was read: %v", got)
	}
	if diff := cmp.Diff([]string{"192.0.2.2", "::1"}, parseAhosts([]byte("192.0.2.2 STREAM b\n192.0.2.2 DGRAM\n::1 STREAM\n"))); diff != "" {
		t.Error(diff)
	}
	for status, want := range map[string]bool{"Name:\tx\nCapEff:\t000001ffffffffff\n": true, "CapEff:\t0000000000000400\n": false} {
		if got, err := parsePtrace([]byte(status)); err != nil || got != want {
			t.Errorf("%q: %t, %v", status, got, err)
		}
	}
	if _, err := parsePtrace([]byte("Name:\tx")); err == nil {
		t.Error("no error without capabilities")
	}
	info, err := parseStat("81a4 10 20 300\n")
	if want := (sys.FileInfo{Mode: 0o100644, UID: 10, GID: 20, Size: 300}); err != nil || info != want {
		t.Errorf("%+v, %v", info, err)
	}
	if _, err := parseStat("81a4 10"); err == nil {
		t.Error("no error for half a stat")
	}
}

func TestOverlay(t *testing.T) {
	g := goodGuest()
	text := `<domain type='kvm'><name>web</name><os><type arch='x86_64' machine='pc-q35-9.2'>hvm</type></os>
<cpu mode='custom'><model>EPYC</model></cpu>
<devices><emulator>/opt/qemu</emulator>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/other/web.raw'/><target dev='vda'/></disk>
<disk type='file' device='cdrom'><target dev='sda'/></disk>
<interface type='network'><mac address='52:54:00:00:00:01'/><source network='lan'/></interface>
</devices></domain>`
	got, err := overlay(g, text)
	if err != nil {
		t.Fatal(err)
	}
	if got.Machine != "pc-q35-9.2" || got.Emulator != "/opt/qemu" || got.CPU != "<cpu mode='custom'><model>EPYC</model></cpu>" {
		t.Errorf("%+v", got)
	}
	if d := got.Disks[0]; d.Path != "/other/web.raw" || d.Format != "raw" || d.Capacity != 10<<30 {
		t.Errorf("disk %+v", d)
	}
	if got.Disks[1].Path != "" {
		t.Errorf("drive %+v is not empty", got.Disks[1])
	}
	if want := (migrate.NIC{MAC: "52:54:00:00:00:01", Kind: "network", Source: "lan"}); got.NICs[0] != want {
		t.Errorf("card %+v", got.NICs[0])
	}
	if g.Disks[0].Path != "/img/web.qcow2" || g.NICs[0].Kind != "bridge" {
		t.Error("the guest itself was changed")
	}
	if archOf(text) != "x86_64" || archOf("<") != "" || element("<domain><a><cpu/></a></domain>", "cpu") != "" {
		t.Error("the XML is misread")
	}
	for _, bad := range []string{"", "<domain>", "<network/>"} {
		if _, err := overlay(g, bad); err == nil || !strings.Contains(err.Error(), "XML") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
