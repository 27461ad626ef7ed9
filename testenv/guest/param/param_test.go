package param

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var same = cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})

func TestWordsAreReadBack(t *testing.T) {
	for _, want := range []Config{
		{Name: "web", Addr: netip.MustParsePrefix("10.77.0.10/24"), Workload: "idle"},
		{Name: "a.b-c_1", Addr: netip.MustParsePrefix("10.77.0.10/24"), Gateway: netip.MustParseAddr("10.77.0.1"),
			MAC: net.HardwareAddr{0x52, 0x54, 0, 1, 2, 3}, Workload: "cycle:phases=1@1s/2@2s", Seed: 1<<64 - 1, Disks: []int64{300 << 20, 0}},
	} {
		words, err := want.Words()
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse("console=ttyS0 quiet " + strings.Join(words, " ") + "\n")
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got, same); d != "" {
			t.Errorf("%q (-want +got):\n%s", words, d)
		}
	}
}

func TestAnEmptyWorkloadIsIdle(t *testing.T) {
	words, err := Config{Name: "x", Addr: netip.MustParsePrefix("10.0.0.1/8")}.Words()
	if err != nil || !strings.Contains(strings.Join(words, " "), "vmm.workload=idle") {
		t.Errorf("Words = %q, %v", words, err)
	}
}

func TestParseRefuses(t *testing.T) {
	const good = "vmm.name=x vmm.ip=10.0.0.1/8 "
	for _, line := range []string{
		"", "vmm.name=x", "vmm.ip=10.0.0.1/8", good + "vmm.nmae=y", good + "vmm.ip=10.0.0.1",
		good + "vmm.ip=fe80::1/64", good + "vmm.gw=fe80::1", good + "vmm.mac=1", good + "vmm.mac=01:02:03:04:05:06:07:08",
		good + "vmm.seed=-1", good + "vmm.workload=busy", good + "vmm.name=a/b", good + "vmm.name=" + strings.Repeat("x", 65),
		good + strings.Repeat(" ", 3000), good + "vmm.disks=", good + "vmm.disks=1,x", good + "vmm.disks=-1", good + "vmm.disks=0" + strings.Repeat(",0", 16),
	} {
		if _, err := Parse(line); !errors.Is(err, ErrConfig) {
			t.Errorf("Parse(%.60q) = %v, want ErrConfig", line, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("quiet vmm.name=x vmm.ip=10.0.0.1/8 vmm.gw=10.0.0.2 vmm.mac=52:54:00:00:00:01 vmm.seed=3 vmm.workload=mixed vmm.disks=1048576,0")
	f.Fuzz(func(t *testing.T, line string) {
		c, err := Parse(line)
		if err != nil {
			return
		}
		words, err := c.Words()
		if err != nil {
			t.Fatalf("%q was read and cannot be written: %v", line, err)
		}
		for _, w := range words {
			if strings.ContainsAny(w, " \t\n\"'") {
				t.Fatalf("word %q would be split by the kernel", w)
			}
		}
		if _, err := Parse(strings.Join(words, " ")); err != nil {
			t.Fatalf("%q: %v", words, err)
		}
	})
}
