package check

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/sys"
)

// sshView looks at a host through the user's ssh. It sees what that user may see.
type sshView struct {
	host string
	// argv is the command up to the remote script.
	argv []string
}

func newSSHView(u *url.URL) *sshView {
	q := u.Query()
	prog := q.Get("command")
	if prog == "" {
		prog = "ssh"
	}
	argv := []string{prog, "-T", "-e", "none", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5"}
	if p := u.Port(); p != "" {
		argv = append(argv, "-p", p)
	}
	if name := u.User.Username(); name != "" {
		argv = append(argv, "-l", name)
	}
	if k := q.Get("keyfile"); k != "" {
		argv = append(argv, "-i", k)
	}
	return &sshView{host: u.Hostname(), argv: append(argv, "--", u.Hostname())}
}

func (v *sshView) String() string { return "ssh " + v.host }

// The exit statuses of our scripts, chosen not to clash with those of ssh (255) and shells.
const (
	exitAbsent      = 80 // no such file, no such name
	exitRefused     = 81
	exitUnreachable = 82
	exitTimeout     = 83
	exitForbidden   = 84
	exitNoMeans     = 85 // neither bash nor nc
)

// run runs a script with arguments on the host and gives what it wrote, at most a little more than 1 MiB in base64.
func (v *sshView) run(ctx context.Context, script string, args ...string) ([]byte, error) {
	words := []string{"LC_ALL=C", "sh", "-c", shellWord(script), "sh"}
	for _, a := range args {
		words = append(words, shellWord(a))
	}
	cmd := exec.CommandContext(ctx, v.argv[0], append(v.argv[1:], strings.Join(words, " "))...)
	cmd.WaitDelay = time.Second
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err == nil {
		return out, nil
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if known := statusError(exit.ExitCode()); known != nil {
			return nil, known
		}
	}
	said, _, _ := strings.Cut(strings.TrimSpace(errs.String()), "\n")
	if said == "" {
		said = err.Error()
	}
	return nil, fmt.Errorf("ssh %s: %s", v.host, said)
}

// statusError is what an exit status of a script of ours means; nil if it is not one.
func statusError(status int) error {
	switch status {
	case exitAbsent:
		return fs.ErrNotExist
	case exitRefused:
		return syscall.ECONNREFUSED
	case exitUnreachable:
		return syscall.EHOSTUNREACH
	case exitTimeout:
		return os.ErrDeadlineExceeded
	case exitForbidden:
		return syscall.EACCES
	case exitNoMeans:
		return errors.New("the host has neither bash nor nc to try it with")
	}
	return nil
}

// dialScript connects with bash, or with nc, and says how it went by its exit status.
const dialScript = `
if command -v bash >/dev/null 2>&1; then
  if command -v timeout >/dev/null 2>&1; then t="timeout 2"; else t=; fi
  said=$($t bash -c 'exec 3<>"/dev/tcp/$1/$2"' bash "$1" "$2" 2>&1); got=$?
  [ $got = 124 ] && exit 83
elif command -v nc >/dev/null 2>&1; then
  said=$(nc -v -z -w 2 "$1" "$2" 2>&1); got=$?
else
  exit 85
fi
[ $got = 0 ] && exit 0
case "$said" in
  *refused*) exit 81;;
  *"No route"*|*unreachable*) exit 82;;
  *"timed out"*) exit 83;;
  *"ermission denied"*|*"not permitted"*) exit 84;;
esac
echo "$said" >&2
exit 1`

func (v *sshView) Dial(ctx context.Context, addr string) error {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return fmt.Errorf("dial %s: %w", addr, err)
	}
	_, err = v.run(ctx, dialScript, ap.Addr().String(), strconv.Itoa(int(ap.Port())))
	return err
}

func (v *sshView) Resolve(ctx context.Context, name string) ([]string, error) {
	if _, err := netip.ParseAddr(name); err == nil {
		return []string{name}, nil
	}
	out, err := v.run(ctx, `getent ahosts "$1"; got=$?; [ $got = 2 ] && exit 80; exit $got`, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseAhosts(out), nil
}

// absent ends a script if its first argument is no file.
const absent = `[ -e "$1" ] || [ -L "$1" ] || exit 80; `

func (v *sshView) ReadFile(ctx context.Context, path string) ([]byte, error) {
	out, err := v.run(ctx, absent+`head -c `+strconv.Itoa(maxFile+1)+` -- "$1" | base64`, path)
	if err != nil {
		return nil, err
	}
	dec := base64.NewDecoder(base64.StdEncoding, bytes.NewReader(out))
	return readBounded(dec, path)
}

func (v *sshView) Stat(ctx context.Context, path string) (sys.FileInfo, error) {
	out, err := v.run(ctx, absent+`stat -L -c '%f %u %g %s' -- "$1"`, path)
	if err != nil {
		return sys.FileInfo{}, err
	}
	return parseStat(string(out))
}

// parseStat reads mode in hexadecimal, user, group and size.
func parseStat(line string) (sys.FileInfo, error) {
	var info sys.FileInfo
	f := strings.Fields(line)
	if len(f) != 4 {
		return info, fmt.Errorf("stat said %q", line)
	}
	mode, err1 := strconv.ParseUint(f[0], 16, 32)
	uid, err2 := strconv.ParseUint(f[1], 10, 32)
	gid, err3 := strconv.ParseUint(f[2], 10, 32)
	length, err4 := strconv.ParseInt(f[3], 10, 64)
	info = sys.FileInfo{Mode: uint32(mode), UID: uint32(uid), GID: uint32(gid), Size: length}
	return info, errors.Join(err1, err2, err3, err4)
}

func (v *sshView) Filesystem(ctx context.Context, path string) (string, error) {
	out, err := v.run(ctx, absent+`stat -f -c %T -- "$1"`, path)
	return strings.TrimSpace(string(out)), err
}

// Identity joins the machine's boot with the namespace, so that two views of one host agree and others do not.
func (v *sshView) Identity(ctx context.Context) (string, error) {
	out, err := v.run(ctx, `cat /proc/sys/kernel/random/boot_id && readlink /proc/self/ns/net`)
	return strings.Join(strings.Fields(string(out)), " "), err
}

func (v *sshView) Devices(ctx context.Context) (map[string]bool, error) {
	out, err := v.run(ctx, `cat /proc/net/dev`)
	return parseDevices(out), err
}

func (v *sshView) Listeners(ctx context.Context) (map[int]bool, error) {
	out, err := v.run(ctx, `cat /proc/net/tcp && { echo; cat /proc/net/tcp6 2>/dev/null; true; }`)
	if err != nil {
		return nil, err
	}
	ports := map[int]bool{}
	return ports, parseListeners(out, ports)
}

func (v *sshView) Clock(ctx context.Context) (time.Time, error) {
	out, err := v.run(ctx, `date +%s%N`)
	if err != nil {
		return time.Time{}, err
	}
	ns, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("the host's time: %w", err)
	}
	return time.Unix(0, ns), nil
}

// Owner is root for the system's daemon, since the users who may ssh in and talk to it are not those it runs as.
func (v *sshView) Owner(ctx context.Context) (uint32, bool, error) {
	out, err := v.run(ctx, `p=$(pidof virtqemud libvirtd | cut -d' ' -f1); [ -n "$p" ] || exit 80; `+
		`stat -c %u "/proc/$p" && grep CapEff: "/proc/$p/status"`)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil // started on demand by the service manager, which is root
	}
	if err != nil {
		return 0, false, err
	}
	uid, rest, _ := strings.Cut(string(out), "\n")
	n, err := strconv.ParseUint(strings.TrimSpace(uid), 10, 32)
	if err != nil {
		return 0, false, fmt.Errorf("owner of the daemon: %w", err)
	}
	ptrace, err := parsePtrace([]byte(rest))
	return uint32(n), ptrace, err
}

// The views do all of this.
var (
	_ View    = (*procView)(nil)
	_ View    = (*sshView)(nil)
	_ Vantage = here{}
)
