//go:build linux

package libvirthost

import (
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
)

func TestParseTCP(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:C000 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 7 1 0 100 0 0 10 0
   1: 01004D0A:9C40 02004D0A:C000 01 00000000:00000000 00:00000000 00000000     0        0 8 1 0 100 0 0 10 0
   2: 01004D0A:9C41 02004D0A:C000 01 00000000:00000000 00:00000000 00000000     0        0 9 1 0 100 0 0 10 0
`
	got, err := parseTCP(strings.NewReader(table), map[string]bool{"7": true, "8": true})
	if err != nil || len(got) != 1 {
		t.Fatalf("%v, %v", got, err)
	}
	if l, r := got[0].local.String(), got[0].remote.String(); l != "10.77.0.1:40000" || r != "10.77.0.2:49152" {
		t.Errorf("%s to %s", l, r)
	}
	if _, err := parseAddr("01:1"); err == nil {
		t.Error("a short address was taken")
	}
	v6, err := parseAddr("B80D0120000000000000000001000000:C000")
	if err != nil || v6.String() != "[2001:db8::1]:49152" {
		t.Errorf("%v, %v", v6, err)
	}
}

func TestRunsGuest(t *testing.T) {
	const cmd = "/usr/bin/qemu-system-x86_64\x00-name\x00guest=web,debug-threads=on\x00-S\x00"
	for name, want := range map[string]bool{"web": true, "we": false, "web2": false, "": false} {
		if got := runsGuest(cmd, name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
	if runsGuest("bash\x00-name", "web") {
		t.Error("a command line without a name was taken")
	}
}

func TestTicketPort(t *testing.T) {
	for uri, want := range map[string]uint16{"tcp:b:49153": 0, "tcp://b:49153": 49153, "unix:///x": 0, "": 0, "tcp://[::1]:1": 1} {
		if got := ticketPort(migrate.Ticket{URI: uri}); got != want {
			t.Errorf("%q: %d, want %d", uri, got, want)
		}
	}
}

func FuzzParseTCP(f *testing.F) {
	f.Add("   1: 01004D0A:9C40 02004D0A:C000 01 00000000:00000000 00:00000000 00000000     0        0 8 1")
	f.Fuzz(func(t *testing.T, s string) {
		_, _ = parseTCP(strings.NewReader(s), map[string]bool{"8": true})
	})
}
