package qemuhost

import (
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
)

func TestParseURI(t *testing.T) {
	for uri, want := range map[string]address{
		"qemu+qmp:///run/a.sock":                    {socket: "/run/a.sock", tlsDir: DefaultTLSDir},
		"qemu+qmp:///run/a%20b.sock?tls-dir=/etc/x": {socket: "/run/a b.sock", tlsDir: "/etc/x"},
	} {
		want.uri = uri
		got, err := parseURI(uri)
		if err != nil || got != want || !Handles(uri) {
			t.Errorf("%s: %+v, %v", uri, got, err)
		}
	}
	for _, bad := range []string{"", "qemu:///system", "qemu+qmp:///", "qemu+qmp://host/run/a.sock", "qemu+qmp:run/a.sock", "qemu+qmp://",
		"qemu+qmp:///a?tls-dir=x", "qemu+qmp:///a?what=/x", "qemu+qmp:///a?tls-dir=/x&tls-dir=/y", "qemu+qmp:///a#b", "qemu+qmp:///a?%zz"} {
		if a, err := parseURI(bad); err == nil {
			t.Errorf("%q was accepted as %+v", bad, a)
		}
	}
}

func TestListener(t *testing.T) {
	for _, c := range []struct{ migrateURI, listen, bind, announce string }{
		{"", "", "tcp:127.0.0.1:0", "tcp://127.0.0.1:0"},
		{"", "10.0.0.2", "tcp:10.0.0.2:0", "tcp://10.0.0.2:0"},
		{"", "0.0.0.0", "tcp:0.0.0.0:0", "tcp://127.0.0.1:0"},
		{"", "::", "tcp:[::]:0", "tcp://[::1]:0"},
		{"tcp://b:49152", "", "tcp:0.0.0.0:49152", "tcp://b:49152"},
		{"tcp:b:49152", "", "tcp:0.0.0.0:49152", "tcp://b:49152"},
		{"tcp://b", "10.0.0.2", "tcp:10.0.0.2:0", "tcp://b:0"},
		{"tcp://[fd00::2]:1", "", "tcp:[::]:1", "tcp://[fd00::2]:1"},
		{"unix:///run/ram", "", "unix:/run/ram", "unix:///run/ram"},
	} {
		bind, announce, err := listener(c.migrateURI, c.listen)
		if err != nil || bind.qemu() != c.bind || announce.uri() != c.announce {
			t.Errorf("%q, %q: %s, %s, %v; want %s, %s", c.migrateURI, c.listen, bind.qemu(), announce.uri(), err, c.bind, c.announce)
		}
	}
	for _, bad := range []string{"http://b", "tcp://", "unix:x", "tcp://b:1/path", "exec:cat", "fd:x", "unix://host/x", "%"} {
		if _, _, err := listener(bad, ""); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestNBDListener(t *testing.T) {
	bind, announce := endpoint{network: "tcp", host: "0.0.0.0", port: "5"}, endpoint{network: "tcp", host: "b", port: "5"}
	local := endpoint{network: "unix", path: "/run/ram"}
	for name, c := range map[string]struct {
		p              migrate.Params
		bind, announce endpoint
		at, told       string
	}{
		"as the RAM":    {migrate.Params{}, bind, announce, "tcp://0.0.0.0:", "tcp://b:"},
		"a port":        {migrate.Params{DisksPort: 7}, bind, announce, "tcp://0.0.0.0:7", "tcp://b:"},
		"over unix":     {migrate.Params{}, local, local, "tcp://127.0.0.1:", "tcp://127.0.0.1:"},
		"a URI":         {migrate.Params{DisksURI: "tcp://c:9"}, bind, announce, "tcp://0.0.0.0:9", "tcp://c:9"},
		"a unix socket": {migrate.Params{DisksURI: "unix:///run/nbd"}, bind, announce, "unix:///run/nbd", "unix:///run/nbd"},
	} {
		at, told, err := nbdListener(c.p, c.bind, c.announce)
		if err != nil || at.uri() != c.at || told.uri() != c.told {
			t.Errorf("%s: %s, %s, %v; want %s, %s", name, at.uri(), told.uri(), err, c.at, c.told)
		}
	}
}

func FuzzParseURI(f *testing.F) {
	f.Add("qemu+qmp:///run/a.sock?tls-dir=/x")
	f.Fuzz(func(t *testing.T, uri string) {
		a, err := parseURI(uri)
		if err == nil && (!strings.HasPrefix(a.socket, "/") || !strings.HasPrefix(a.tlsDir, "/")) {
			t.Errorf("%q: %+v", uri, a)
		}
	})
}

func FuzzParseEndpoint(f *testing.F) {
	f.Add("tcp://[::1]:5")
	f.Add("unix:///x")
	f.Fuzz(func(t *testing.T, uri string) {
		e, err := parseEndpoint(uri)
		if err != nil {
			return
		}
		again, err := parseEndpoint(e.uri())
		if e.network == "tcp" && strings.ContainsAny(e.host, "%[]?#/@ <>\"") || e.network == "unix" && strings.ContainsAny(e.path, "%?#") {
			return // a host or path that its own URI would have to escape
		}
		if err != nil || again != e {
			t.Errorf("%q is %+v, whose URI is %+v, %v", uri, e, again, err)
		}
	})
}
