package libvirthost

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
)

func TestParseURI(t *testing.T) {
	for in, want := range map[string]target{
		"qemu:///system":                         {transport: "unix", path: "/system", name: "qemu:///system"},
		"qemu:///session":                        {transport: "unix", path: "/session", name: "qemu:///session"},
		"qemu+unix:///system?socket=/x":          {transport: "unix", path: "/system", name: "qemu:///system", socket: "/x"},
		"qemu+tcp://h:1/system":                  {transport: "tcp", path: "/system", name: "qemu:///system", host: "h", port: "1"},
		"qemu://h/system":                        {transport: "tls", path: "/system", name: "qemu:///system", host: "h"},
		"qemu+tls://[::1]/system?pkipath=/p":     {transport: "tls", path: "/system", name: "qemu:///system", host: "::1", pkipath: "/p"},
		"qemu+tls://h/system?no_verify=1":        {transport: "tls", path: "/system", name: "qemu:///system", host: "h", noVerify: true},
		"qemu+tls://h/system?no_verify=0":        {transport: "tls", path: "/system", name: "qemu:///system", host: "h"},
		"qemu+ssh://u@h:22/session?keyfile=/k":   {transport: "ssh", path: "/session", name: "qemu:///session", host: "h", user: "u", port: "22", keyfile: "/k"},
		"qemu+ssh://h/system?command=s&netcat=n": {transport: "ssh", path: "/system", name: "qemu:///system", host: "h", command: "s", netcat: "n"},
		"qemu+tcp://h/system?name=qemu:///x":     {transport: "tcp", path: "/system", name: "qemu:///x", host: "h"},
	} {
		got, err := parseURI(in)
		want.raw = in
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", in, got, err, want)
		}
	}
}

func TestParseURIRefuses(t *testing.T) {
	for in, says := range map[string]string{
		"":                                  "not a libvirt URI",
		"hello":                             "not a libvirt URI",
		"xen:///system":                     `driver "xen"`,
		"qemu+qmp:///x":                     "is \"/x\", not /system or /session",
		"qemu+libssh2://h/system":           "libssh2",
		"qemu+carrier-pigeon://h/system":    "carrier-pigeon",
		"qemu+tcp:///system":                "names no host",
		"qemu+unix://h/system":              "has no host",
		"qemu:///":                          "not /system",
		"qemu+tcp://h/system?tls_priority=": "tls_priority",
		"qemu+ssh://h/system?proxy=maybe":   "proxy",
		"qemu+ssh://h/system?mode=odd":      "mode",
		"qemu+tcp://h/system?socket=/x":     "socket",
	} {
		_, err := parseURI(in)
		var oe *migrate.OpError
		if err == nil || !errors.As(err, &oe) || oe.Fix == "" || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v (want %q and a fix)", in, err, says)
		}
	}
	if _, err := parseURI("qemu+tcp://user:secret@h/nowhere"); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("a password is told: %v", err)
	}
}

// fakeEnv is a machine without any file but these.
func fakeEnv(uid int, vars, files map[string]string) environment {
	return environment{
		uid: uid, home: "/home/u",
		get: func(k string) string { return vars[k] },
		read: func(p string) ([]byte, error) {
			if s, ok := files[p]; ok {
				return []byte(s), nil
			}
			return nil, fs.ErrNotExist
		},
		exists: func(p string) bool { _, ok := files[p]; return ok },
	}
}

const conf = `# comment
uri_aliases = [
  "hail=qemu+ssh://root@hail.cloud.example.com/system",  # the first
  "sleet=qemu+tls://sleet/system",
  'rain=qemu:///session' ]
#uri_default = "qemu:///no"
uri_default = "sleet"
`

func TestResolve(t *testing.T) {
	system := map[string]string{"/etc/libvirt/libvirt.conf": conf}
	own := map[string]string{"/etc/libvirt/libvirt.conf": conf, "/home/u/.config/libvirt/libvirt.conf": `uri_default = "qemu:///mine"`}
	for _, c := range []struct {
		uri   string
		uid   int
		vars  map[string]string
		files map[string]string
		want  string
	}{
		{"qemu:///x", 0, nil, nil, "qemu:///x"},
		{"", 0, nil, nil, "qemu:///system"},
		{"", 1, nil, nil, "qemu:///session"},
		{"", 0, nil, system, "qemu+tls://sleet/system"},
		{"", 1, nil, own, "qemu:///mine"},
		{"", 1, map[string]string{"LIBVIRT_DEFAULT_URI": "qemu:///env"}, own, "qemu:///env"},
		{"", 0, map[string]string{"LIBVIRT_DEFAULT_URI": "rain"}, system, "qemu:///session"},
		{"hail", 0, nil, system, "qemu+ssh://root@hail.cloud.example.com/system"},
		{"rain", 0, nil, system, "qemu:///session"},
		{"hail", 1, map[string]string{"XDG_CONFIG_HOME": "/xdg"}, map[string]string{"/xdg/libvirt/libvirt.conf": `uri_aliases = ["hail=qemu+tcp://h/system"]`}, "qemu+tcp://h/system"},
	} {
		got, err := fakeEnv(c.uid, c.vars, c.files).resolve(c.uri)
		if err != nil || got != c.want {
			t.Errorf("%q as %d with %v: %q, %v; want %q", c.uri, c.uid, c.vars, got, err, c.want)
		}
	}
	if _, err := fakeEnv(0, nil, system).resolve("snow"); err == nil || migrate.FixOf(err) == "" {
		t.Errorf("unknown alias: %v", err)
	}
	for _, bad := range []string{`uri_aliases = ["x"]`, `uri_aliases = ["a=b"`, `uri_aliases = ["a b=c:d"]`} {
		if _, err := fakeEnv(0, nil, map[string]string{"/etc/libvirt/libvirt.conf": bad}).resolve("a"); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}

func TestFindSocket(t *testing.T) {
	direct := map[string]string{"/run/libvirt/virtqemud-sock": ""}
	for _, c := range []struct {
		e    environment
		t    target
		want string
	}{
		{fakeEnv(0, nil, nil), target{path: "/system"}, "/run/libvirt/libvirt-sock"},
		{fakeEnv(0, nil, direct), target{path: "/system"}, "/run/libvirt/virtqemud-sock"},
		{fakeEnv(0, nil, direct), target{path: "/system", socket: "/s"}, "/s"},
		{fakeEnv(1, nil, nil), target{path: "/session"}, "/home/u/.cache/libvirt/libvirt-sock"},
		{fakeEnv(1, map[string]string{"XDG_RUNTIME_DIR": "/run/user/1"}, nil), target{path: "/session"}, "/run/user/1/libvirt/libvirt-sock"},
	} {
		if got := c.e.findSocket(c.t); got != c.want {
			t.Errorf("%s, want %s", got, c.want)
		}
	}
}

func TestSSHArgs(t *testing.T) {
	tg := target{host: "-oProxyCommand=x", user: "u", port: "22", keyfile: "/k", path: "/system", name: "qemu:///system"}
	got := strings.Join(sshArgs(tg), " ")
	if !strings.HasPrefix(got, "-T -e none -o BatchMode=yes -p 22 -l u -i /k -- -oProxyCommand=x sh -c ") {
		t.Error(got)
	}
	for _, c := range []struct {
		t         target
		has, lack string
	}{
		{target{path: "/system", name: "qemu:///system"}, "virt-ssh-helper", ""},
		{target{path: "/system", name: "qemu:///system"}, "/run/libvirt/libvirt-sock", ""},
		{target{path: "/system", name: "q", proxy: "native"}, "virt-ssh-helper", "nc"},
		{target{path: "/system", name: "q", proxy: "netcat"}, "nc", "virt-ssh-helper"},
		{target{path: "/system", name: "q", socket: "/my sock"}, "/my sock", "virt-ssh-helper"},
		{target{path: "/system", name: "q", netcat: "/opt/nc"}, "/opt/nc", "virt-ssh-helper"},
		{target{path: "/session", name: "q"}, "virt-ssh-helper", "-U"},
	} {
		got := remoteCommand(c.t)
		if !strings.Contains(got, c.has) || c.lack != "" && strings.Contains(got, c.lack) {
			t.Errorf("%+v: %s", c.t, got)
		}
	}
	if quote(`a'b; rm`) != `'a'\''b; rm'` {
		t.Error(quote(`a'b; rm`))
	}
}
