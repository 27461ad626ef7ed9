package check

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/internal/sys"
)

func TestT2ProcViewOfOurselves(t *testing.T) {
	need.Netns(t)
	viewSuite(t, newProcView(os.Getpid(), uint32(os.Geteuid())))
}

// startHost is a process in network and mount namespaces of its own, with its own /etc/hosts and a tmpfs at dir/mnt.
func startHost(t *testing.T, dir, hosts string) *procView {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "hosts"), []byte(hosts), 0o644); err != nil {
		t.Fatal(err)
	}
	script := `set -e; cd "$1"; mount --make-rprivate /; mount --bind hosts /etc/hosts; mkdir -p mnt; mount -t tmpfs none mnt
echo inside > mnt/file; ln -s /etc/hosts mnt/link; ip link set lo up; echo ready; exec cat`
	cmd := exec.Command("sh", "-c", script, "sh", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	cmd.Stderr = os.Stderr
	end, err := cmd.StdinPipe() // closed with us, whatever ends us
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = end.Close(); _ = cmd.Wait() }) // what it said last is no news
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("the host did not start: %q, %v", line, err)
	}
	return newProcView(cmd.Process.Pid, 0)
}

// in runs a command in the network namespace of a host.
func in(t *testing.T, v *procView, args ...string) {
	t.Helper()
	args = append([]string{"-t", fmt.Sprint(v.pid), "-n", "--"}, args...)
	if out, err := exec.Command("nsenter", args...).CombinedOutput(); err != nil {
		t.Fatalf("nsenter %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// twoHosts are joined by a cable: a is 10.231.0.1, b is 10.231.0.2. a knows a route that nobody takes to 10.232.0.0/24,
// one that is forbidden to 10.233.0.0/24, and none to 10.234.0.0/24.
func twoHosts(t *testing.T) (a, b *procView) {
	t.Helper()
	need.Netns(t)
	for _, prog := range []string{"ip", "nsenter", "getent"} {
		if _, err := exec.LookPath(prog); err != nil {
			t.Skipf("needs %s; remedy: apt install iproute2 util-linux libc-bin", prog)
		}
	}
	a = startHost(t, t.TempDir(), "10.231.0.2 b.lab b\n127.0.0.1 localhost\n")
	b = startHost(t, t.TempDir(), "127.0.1.1 b\n127.0.0.1 localhost\n")
	in(t, a, "ip", "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", fmt.Sprint(b.pid))
	in(t, a, "ip", "addr", "add", "10.231.0.1/29", "dev", "wire")
	in(t, b, "ip", "addr", "add", "10.231.0.2/29", "dev", "wire")
	in(t, a, "ip", "link", "set", "wire", "up")
	in(t, b, "ip", "link", "set", "wire", "up")
	in(t, a, "ip", "route", "add", "unreachable", "10.232.0.0/24")
	in(t, a, "ip", "route", "add", "prohibit", "10.233.0.0/24")
	return a, b
}

// listen opens a port on a host.
func listen(t *testing.T, v *procView, addr string) int {
	t.Helper()
	var l net.Listener
	var err error
	if nerr := sys.InNetns(v.proc+"/ns/net", func() { l, err = net.Listen("tcp4", addr) }); nerr != nil || err != nil {
		t.Fatal(nerr, err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().(*net.TCPAddr).Port
}

func TestT2Ports(t *testing.T) {
	a, b := twoHosts(t)
	port := listen(t, b, "10.231.0.2:0")
	viaSSH := fakeSSH(t, fmt.Sprintf("exec nsenter -t %d -n --", a.pid))
	// Each view gets a silent address of its own, since the kernel soon knows that one is not there.
	for silent, v := range map[string]View{"10.231.0.5:1": a, "10.231.0.6:1": viaSSH} {
		for _, tc := range []struct {
			name, addr string
			want       Contact
		}{
			{"open", fmt.Sprintf("10.231.0.2:%d", port), ContactOpen},
			{"nobody listens", "10.231.0.2:1", ContactRefused},
			{"nobody answers", silent, ContactBlocked},
			{"unreachable", "10.232.0.1:1", ContactBlocked},
			{"prohibited", "10.233.0.1:1", ContactBlocked},
			{"no route", "10.234.0.1:1", ContactBlocked},
		} {
			if got := contact(v.Dial(t.Context(), tc.addr)); got.Value != tc.want {
				t.Errorf("%s: %s: %+v, want %s", v, tc.name, got, tc.want)
			}
		}
	}
	there, err := b.Listeners(t.Context())
	if err != nil || !there[port] {
		t.Errorf("listeners of b: %v, %v; want %d", there, err, port)
	}
	if ours, err := a.Listeners(t.Context()); err != nil || ours[port] {
		t.Errorf("listeners of a: %v, %v; want none of b's", ours, err)
	}
}

func TestT2Names(t *testing.T) {
	a, b := twoHosts(t)
	for _, tc := range []struct {
		v    View
		name string
		want []string
	}{
		{a, "b", []string{"10.231.0.2"}}, {a, "B.lab", []string{"10.231.0.2"}}, {b, "b", []string{"127.0.1.1"}},
		{a, "10.231.0.9", []string{"10.231.0.9"}}, {a, "no-such-host.invalid", nil},
	} {
		if got, err := tc.v.Resolve(t.Context(), tc.name); err != nil || !slices.Equal(got, tc.want) {
			t.Errorf("%s: %s is %v, %v; want %v", tc.v, tc.name, got, err, tc.want)
		}
	}
	ida, err1 := a.Identity(t.Context())
	idb, err2 := b.Identity(t.Context())
	if err1 != nil || err2 != nil || ida == idb {
		t.Errorf("identities %s, %s, %v, %v; want two", ida, idb, err1, err2)
	}
}

// Files are those of the host, and its absolute links lead to its own files.
func TestT2Files(t *testing.T) {
	need.Netns(t)
	dir := t.TempDir()
	v := startHost(t, dir, "192.0.2.1 only-here\n")
	for path, want := range map[string]string{"/mnt/file": "inside\n", "/mnt/link": "192.0.2.1 only-here\n"} {
		if b, err := v.ReadFile(t.Context(), dir+path); err != nil || string(b) != want {
			t.Errorf("%s holds %q, %v", path, b, err)
		}
	}
	if _, err := os.Stat(dir + "/mnt/file"); err == nil {
		t.Error("the host's file is seen outside of it: the test proves nothing")
	}
	if fs, err := v.Filesystem(t.Context(), dir+"/mnt"); err != nil || fs != "tmpfs" {
		t.Errorf("file system %s, %v", fs, err)
	}
	g := &gatherer{srcView: v, dstView: newProcView(os.Getpid(), 0)}
	if !g.sameFile(t.Context(), dir+"/hosts") || g.sameFile(t.Context(), dir+"/mnt") || g.sameFile(t.Context(), dir+"/gone") {
		t.Error("a file that both hosts have is not known as one, or the other way round")
	}
	uid, ptrace, err := v.Owner(t.Context())
	if err != nil || uid != 0 || !ptrace {
		t.Errorf("owner %d, ptrace %t, %v", uid, ptrace, err)
	}
}

// The whole way from the namespaces to the findings.
func TestT2Gather(t *testing.T) {
	a, b := twoHosts(t)
	w := newWorld()
	listen(t, b, "0.0.0.0:49152") // another guest's, which must not be dialled
	o := w.options()
	views := map[string]*procView{w.src.uri: a, w.dst.uri: b}
	o.Open = func(_ context.Context, uri string) (View, error) { return views[uri], nil }
	gather := func() string {
		f, err := Gather(t.Context(), w.src, w.dst, "web", w.p, o)
		if err != nil {
			t.Fatal(err)
		}
		return found(append(append(ruleName(f), rulePorts(f)...), ruleSameHost(f)...))
	}
	if got := gather(); got != "" {
		t.Errorf("good way: found %s", got)
	}
	in(t, a, "ip", "route", "add", "unreachable", "10.231.0.2/32")
	if got := gather(); got != "port-blocked/blocker" {
		t.Errorf("blocked way: found %s", got)
	}
	w.dst.facts.Hostname = "no-such-host.invalid"
	if got := gather(); got != "name-unresolved/blocker" {
		t.Errorf("unknown name: found %s", got)
	}
	views[w.src.uri] = b // from b's own place its name is a loopback address, and right
	w.dst.facts.Hostname = "b"
	if got := gather(); got != "" {
		t.Errorf("one network: found %s", got)
	}
}
