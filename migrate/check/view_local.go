package check

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/sys"
)

// OpenView makes the view of a host from its URI: a hypervisor behind a local unix socket is looked at through its
// process, one behind ssh through ssh. For others, which let us in nowhere but through their daemon, it is nil.
func OpenView(ctx context.Context, uri string) (View, error) {
	u, err := url.Parse(uri)
	if err != nil {
		return nil, fmt.Errorf("read the URI: %w", err)
	}
	driver, transport, _ := strings.Cut(u.Scheme, "+")
	switch {
	case driver != "qemu":
		return nil, nil
	case transport == "ssh":
		return newSSHView(u), nil
	case transport == "qmp":
		return localView(ctx, u.Path)
	case transport == "unix", transport == "" && u.Host == "":
		return localView(ctx, localSocket(u))
	}
	return nil, nil
}

// localSocket is the first of the sockets that there is.
func localSocket(u *url.URL) string {
	if s := u.Query().Get("socket"); s != "" {
		return s
	}
	dir := "/run/libvirt"
	if u.Path == "/session" {
		if dir = os.Getenv("XDG_RUNTIME_DIR"); dir == "" {
			dir = fmt.Sprintf("/run/user/%d", os.Getuid())
		}
		dir = filepath.Join(dir, "libvirt")
	}
	for _, name := range []string{"virtqemud-sock", "libvirt-sock"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return filepath.Join(dir, name)
		}
	}
	return filepath.Join(dir, "libvirt-sock")
}

// procView looks at a host through a process on this machine that lives in it.
type procView struct {
	pid  int
	uid  uint32
	proc string // /proc/PID
}

// localView finds the process that listens on a unix socket. The connection is closed at once; a monitor of QEMU's that
// is busy with another client does not notice it.
func localView(ctx context.Context, socket string) (View, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }() // nothing was written
	unixConn, ok := c.(*net.UnixConn)
	if !ok {
		return nil, fmt.Errorf("%s is no unix socket", socket)
	}
	peer, err := sys.PeerOf(unixConn)
	if err != nil {
		return nil, err
	}
	if peer.PID == 0 {
		return nil, errors.New("the process behind the socket cannot be seen from here")
	}
	return newProcView(peer.PID, peer.UID), nil
}

func newProcView(pid int, uid uint32) *procView {
	return &procView{pid: pid, uid: uid, proc: "/proc/" + strconv.Itoa(pid)}
}

func (v *procView) String() string { return fmt.Sprintf("process %d", v.pid) }
func (v *procView) root() string   { return v.proc + "/root" }

// Dial connects from within the process's network namespace.
func (v *procView) Dial(ctx context.Context, addr string) error {
	if _, err := netip.ParseAddrPort(addr); err != nil {
		return fmt.Errorf("dial %s: %w", addr, err)
	}
	var dialErr error
	if err := sys.InNetns(v.proc+"/ns/net", func() { dialErr = dialOnce(ctx, addr) }); err != nil {
		return noErrno{err}
	}
	return dialErr
}

// noErrno keeps the text of an error and hides its cause, so that a permission that we lack is not taken for an answer
// of the network.
type noErrno struct{ err error }

func (e noErrno) Error() string { return e.err.Error() }

// Resolve looks into the process's own hosts file, and then asks the resolver as the process would.
func (v *procView) Resolve(ctx context.Context, name string) ([]string, error) {
	if _, err := netip.ParseAddr(name); err == nil {
		return []string{name}, nil
	}
	hosts, err := v.ReadFile(ctx, "/etc/hosts")
	if err == nil {
		if addrs := parseHosts(hosts, name); len(addrs) > 0 {
			return addrs, nil
		}
	}
	if v.sameWorld() {
		addrs, err := net.DefaultResolver.LookupHost(ctx, name)
		return addrs, notFound(err)
	}
	return v.getent(ctx, name)
}

// sameWorld tells that the process sees the same files and network as we do.
func (v *procView) sameWorld() bool {
	for _, ns := range []string{"net", "mnt"} {
		ours, err1 := os.Readlink("/proc/self/ns/" + ns)
		theirs, err2 := os.Readlink(v.proc + "/ns/" + ns)
		if err1 != nil || err2 != nil || ours != theirs {
			return false
		}
	}
	return true
}

// noSuchKey is getent's exit status for a name that means nothing.
const noSuchKey = 2

func (v *procView) getent(ctx context.Context, name string) ([]string, error) {
	pid := strconv.Itoa(v.pid)
	out, err := exec.CommandContext(ctx, "nsenter", "-t", pid, "-n", "-m", "--", "getent", "ahosts", name).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == noSuchKey {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("resolve %s in the network namespace of process %s: %w", name, pid, err)
	}
	return parseAhosts(out), nil
}

// parseAhosts reads the output of getent ahosts: an address first on each line, one line for each kind of socket.
func parseAhosts(out []byte) []string {
	var addrs []string
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) > 0 && (len(addrs) == 0 || addrs[len(addrs)-1] != f[0]) {
			addrs = append(addrs, f[0])
		}
	}
	return addrs
}

func (v *procView) ReadFile(_ context.Context, path string) ([]byte, error) {
	f, err := sys.OpenInRoot(v.root(), path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read from
	return readBounded(f, path)
}

func readBounded(r io.Reader, path string) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	switch {
	case err != nil:
		return nil, err
	case len(b) > maxFile:
		return nil, fmt.Errorf("%s is longer than %s", path, size(maxFile))
	}
	return b, nil
}

func (v *procView) Stat(_ context.Context, path string) (sys.FileInfo, error) {
	return sys.StatInRoot(v.root(), path)
}

func (v *procView) Filesystem(_ context.Context, path string) (string, error) {
	return sys.FilesystemInRoot(v.root(), path)
}

func (v *procView) Identity(context.Context) (string, error) { return os.Readlink(v.proc + "/ns/net") }

func (v *procView) Devices(context.Context) (map[string]bool, error) {
	text, err := os.ReadFile(v.proc + "/net/dev")
	return parseDevices(text), err
}

func (v *procView) Listeners(context.Context) (map[int]bool, error) {
	ports := map[int]bool{}
	for _, table := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(v.proc + "/net/" + table)
		if errors.Is(err, fs.ErrNotExist) && table == "tcp6" {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, err
		}
		if err := parseListeners(text, ports); err != nil {
			return nil, err
		}
	}
	return ports, nil
}

// Clock is ours: it is one machine.
func (v *procView) Clock(context.Context) (time.Time, error) { return time.Now(), nil }

func (v *procView) Owner(context.Context) (uint32, bool, error) {
	status, err := os.ReadFile(v.proc + "/status")
	if err != nil {
		return 0, false, err
	}
	ptrace, err := parsePtrace(bytes.TrimSpace(status))
	return v.uid, ptrace, err
}
