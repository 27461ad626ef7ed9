package check

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/sys"
)

// Limits of looking.
const (
	// maxFile bounds what is read of any file.
	maxFile = 1 << 20
	// dialTimeout is how long a port may take to answer before it counts as blocked.
	dialTimeout = 2 * time.Second

	userfaultDevice = "/dev/userfaultfd"
)

// Vantage is a place on the network from which names are resolved and ports dialled.
type Vantage interface {
	// Resolve gives the addresses that a name means there; none and no error if it means nothing.
	Resolve(ctx context.Context, name string) ([]string, error)
	// Dial connects to an address (IP:port), waits 2 s at most for an answer, and hangs up. An error that wraps ECONNREFUSED, EHOSTUNREACH, ENETUNREACH,
	// EACCES, EPERM or os.ErrDeadlineExceeded is about the way; any other means that it could not be tried.
	Dial(ctx context.Context, addr string) error
	// String names the place for a person.
	String() string
}

// Inside looks at the files of a host as its hypervisor sees them. An absent file is fs.ErrNotExist.
type Inside interface {
	// ReadFile gives at most 1 MiB; a longer file is an error.
	ReadFile(ctx context.Context, path string) ([]byte, error)
	Stat(ctx context.Context, path string) (sys.FileInfo, error)
	// Filesystem names the type of the file system that holds path, in stat(1)'s words.
	Filesystem(ctx context.Context, path string) (string, error)
}

// Network tells of a host's own network.
type Network interface {
	// Identity is the same text for two hosts exactly if they share one network namespace.
	Identity(ctx context.Context) (string, error)
	// Devices gives the names of its network devices, bridges among them.
	Devices(ctx context.Context) (map[string]bool, error)
	// Listeners gives the TCP ports that somebody listens on there.
	Listeners(ctx context.Context) (map[int]bool, error)
}

// View is all three, of one host. It is safe for use by several goroutines and needs no closing.
type View interface {
	Vantage
	Inside
	Network
	// Owner is the user that the hypervisor's daemon, or the bare QEMU itself, runs as, and whether that process has
	// CAP_SYS_PTRACE.
	Owner(ctx context.Context) (uid uint32, ptrace bool, err error)
	// Clock is the host's time.
	Clock(ctx context.Context) (time.Time, error)
}

// contact reads the answer of a dial.
func contact(err error) Answer[Contact] {
	var timeout interface{ Timeout() bool }
	switch {
	case err == nil:
		return Known(ContactOpen)
	case errors.Is(err, syscall.ECONNREFUSED):
		return Known(ContactRefused)
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EACCES),
		errors.Is(err, syscall.EPERM), errors.Is(err, os.ErrDeadlineExceeded),
		errors.As(err, &timeout) && timeout.Timeout():
		return Known(ContactBlocked)
	}
	return CouldNotTell[Contact](err.Error())
}

// here is the coordinator's own place.
type here struct{}

// Here is the vantage of the coordinator itself.
func Here() Vantage { return here{} }

func (here) String() string { return "here" }

func (here) Resolve(ctx context.Context, name string) ([]string, error) {
	addrs, err := net.DefaultResolver.LookupHost(ctx, name)
	return addrs, notFound(err)
}

func (here) Dial(ctx context.Context, addr string) error { return dialOnce(ctx, addr) }

// notFound turns the answer "no such name" into none.
func notFound(err error) error {
	var dns *net.DNSError
	if errors.As(err, &dns) && dns.IsNotFound {
		return nil
	}
	return err
}

// dialOnce connects to an IP and port, in the network namespace of the calling thread, and hangs up.
func dialOnce(ctx context.Context, addr string) error {
	d := net.Dialer{Timeout: dialTimeout}
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return c.Close()
}

// listening is the state of a listening socket in /proc/net/tcp.
const listening = "0A"

// parseListeners reads /proc/net/tcp or tcp6 and adds the ports that are listened on.
func parseListeners(text []byte, ports map[int]bool) error {
	for i, line := range strings.Split(string(text), "\n") {
		fields := strings.Fields(line)
		if i == 0 || len(fields) < 4 || fields[3] != listening {
			continue
		}
		_, hex, ok := strings.Cut(fields[1], ":")
		port, err := strconv.ParseUint(hex, 16, 16)
		if !ok || err != nil {
			return fmt.Errorf("line %d of the socket table: %q is no address", i+1, fields[1])
		}
		ports[int(port)] = true
	}
	return nil
}

// parseDevices reads /proc/net/dev: a name and a colon on each line after the first two.
func parseDevices(text []byte) map[string]bool {
	out := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if name, _, ok := strings.Cut(line, ":"); ok && !strings.Contains(name, "|") {
			out[strings.TrimSpace(name)] = true
		}
	}
	return out
}

// parseHosts finds a name in a hosts file.
func parseHosts(text []byte, name string) []string {
	var out []string
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		for _, n := range fields[1:] {
			if strings.EqualFold(n, name) {
				out = append(out, fields[0])
				break
			}
		}
	}
	return out
}

// parseAvailable reads from /proc/meminfo how many bytes new processes can have without swapping.
func parseAvailable(meminfo []byte) (int64, error) {
	for line := range strings.Lines(string(meminfo)) {
		f := strings.Fields(line)
		if len(f) == 3 && f[0] == "MemAvailable:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil || kib > 1<<50 {
				return 0, fmt.Errorf("available memory: %q is no size", f[1])
			}
			return kib << 10, nil
		}
	}
	return 0, errors.New("the kernel does not tell the available memory")
}

// capSysPtrace is the bit of CAP_SYS_PTRACE, which userfaultfd asks for.
const capSysPtrace = 19

// parsePtrace tells from /proc/PID/status whether the process has CAP_SYS_PTRACE.
func parsePtrace(status []byte) (bool, error) {
	for line := range strings.Lines(string(status)) {
		hex, ok := strings.CutPrefix(line, "CapEff:")
		if !ok {
			continue
		}
		caps, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
		if err != nil {
			return false, fmt.Errorf("capabilities of a process: %w", err)
		}
		return caps>>capSysPtrace&1 == 1, nil
	}
	return false, errors.New("the process does not tell its capabilities")
}
