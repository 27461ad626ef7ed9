package layout

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/vmmigrate/vmmigrate/testenv/link"
)

// Names inside every host's namespaces.
const (
	// MigrationDevice is the host's end of its migration link.
	MigrationDevice = "mig0"
	// GuestBridge is the bridge that guests' devices join.
	GuestBridge = "br0"
	// GuestUplink is the host's end of its link to the guest network.
	GuestUplink = "uplink0"
	// ClientDevice is the client namespace's device on the guest network.
	ClientDevice = "client0"
	// RAMDir is where the files of shared guest RAM are, on the host's own tmpfs.
	RAMDir = "/dev/shm/ram"
	// HugePagesDir is where those of guests with huge pages are, on the host's own
	// hugetlbfs.
	HugePagesDir = "/run/hugepages"
	// ImagesDir is where disk images are, as the host sees it.
	ImagesDir = "/var/lib/libvirt/images"
	// ProcessPrefix starts the name of every process of a lab.
	ProcessPrefix = "vml-"
)

// MaxHosts bounds a lab: each host is a libvirtd.
const MaxHosts = 16

// maxSocketPath is what the kernel's sockaddr_un holds, without the final NUL.
const maxSocketPath = 107

// namePattern is what a lab may be called; hostPattern leaves room for a prefix in
// a device name, which has 15 bytes.
var (
	namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)
	hostPattern = regexp.MustCompile(`^[a-z][a-z0-9-]{0,7}$`)
)

// hidden are the directories that hosts have of their own, so that a lab below
// them would not see itself.
var hidden = []string{"/run", "/var/run", "/etc", "/proc", "/sys", "/dev", "/var/lib/libvirt", "/var/log/libvirt", "/var/cache/libvirt"}

// Plan is everything about a lab that follows from its configuration.
type Plan struct {
	Name  string    `json:"name"`
	Dir   string    `json:"dir"`
	Hosts []Host    `json:"hosts"`
	Link  link.Spec `json:"link"`
	// Bare hosts have no libvirtd and see the machine's own libvirt directories.
	Bare bool `json:"bare,omitempty"`
	// HugePages says that hosts have a hugetlbfs at HugePagesDir.
	HugePages bool `json:"huge_pages,omitempty"`
	// QEMUCache is a directory on the machine in which all hosts keep what their
	// libvirtd has found out about QEMU, so that it is asked once.
	QEMUCache string `json:"qemu_cache,omitempty"`
}

// Host is one host of a Plan.
type Host struct {
	Name string `json:"name"`
	// Dir is the host's directory on the machine.
	Dir string `json:"dir"`
	// UUID is the host UUID that its libvirtd reports.
	UUID string `json:"uuid"`
	// Address is the host's address on the migration network.
	Address netip.Prefix `json:"address"`
}

// New makes the plan of lab name below root. It fails, with the reason and a way
// out, if a name is unusable or a path is too long for a socket.
func New(name, root string, hosts []string, spec link.Spec) (Plan, error) {
	dir := filepath.Join(root, name)
	p := Plan{Name: name, Dir: dir, Link: spec}
	if err := CheckName(name); err != nil {
		return Plan{}, err
	}
	if err := checkRoot(root); err != nil {
		return Plan{}, err
	}
	if err := spec.Validate(); err != nil {
		return Plan{}, err
	}
	if len(hosts) == 0 || len(hosts) > MaxHosts {
		return Plan{}, fmt.Errorf("a lab has 1 to %d hosts, not %d", MaxHosts, len(hosts))
	}
	seen := map[string]bool{}
	for i, h := range hosts {
		if !hostPattern.MatchString(h) || h == "localhost" {
			return Plan{}, fmt.Errorf("host name %q: use up to 8 lower-case letters, digits and dashes, a letter first", h)
		}
		if seen[h] {
			return Plan{}, fmt.Errorf("host name %q is given twice", h)
		}
		seen[h] = true
		p.Hosts = append(p.Hosts, Host{
			Name: h, Dir: filepath.Join(dir, h), UUID: hostUUID(dir, h),
			Address: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, 0, byte(i + 1)}), 24),
		})
	}
	return p, p.checkSockets()
}

// CheckName reports why a lab cannot have that name.
func CheckName(name string) error {
	if !namePattern.MatchString(name) {
		return fmt.Errorf("lab name %q: use up to 32 lower-case letters, digits and dashes", name)
	}
	return nil
}

// HostNames returns the first n of "a", "b", "c", …
func HostNames(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = string(rune('a' + i))
	}
	return names
}

func checkRoot(root string) error {
	if !filepath.IsAbs(root) {
		return fmt.Errorf("lab directory %q is not absolute", root)
	}
	clean := filepath.Clean(root) + "/"
	for _, h := range hidden {
		if strings.HasPrefix(clean, h+"/") {
			return fmt.Errorf("lab directory %s: every host has a %s of its own; choose a directory outside it, such as one below /var/tmp", root, h)
		}
	}
	return nil
}

// checkSockets makes sure that each socket of the lab can be bound and dialled.
func (p Plan) checkSockets() error {
	sockets := []string{p.ControlSocket()}
	for _, h := range p.Hosts {
		sockets = append(sockets, h.Socket(), h.GuestMonitor(strings.Repeat("x", MaxGuestName)))
	}
	for _, s := range sockets {
		if len(s) > maxSocketPath {
			return fmt.Errorf("lab directory %s is too deep: socket path %s has %d bytes, at most %d fit; choose a shorter directory (VMMIGRATE_LAB_DIR) or lab name",
				p.Dir, s, len(s), maxSocketPath)
		}
	}
	return nil
}

// Host returns the host of that name.
func (p Plan) Host(name string) (Host, error) {
	var names []string
	for _, h := range p.Hosts {
		if h.Name == name {
			return h, nil
		}
		names = append(names, h.Name)
	}
	return Host{}, fmt.Errorf("lab %s has no host %q; its hosts are %s", p.Name, name, strings.Join(names, ", "))
}

// StateFile, ControlSocket and LogFile are the lab's own paths.
func (p Plan) StateFile() string     { return StateFile(p.Dir) }
func (p Plan) ControlSocket() string { return filepath.Join(p.Dir, "control.sock") }
func (p Plan) LogFile() string       { return filepath.Join(p.Dir, "lab.log") }

// StateFile is where the state of the lab in dir is.
func StateFile(dir string) string { return filepath.Join(dir, "state.json") }

// ProcessName is the name (argv[0]) of a process of the lab; host is empty for
// its daemon.
func (p Plan) ProcessName(host string) string {
	if host == "" {
		return ProcessPrefix + p.Name
	}
	return ProcessPrefix + p.Name + "-" + host
}

// Paths of a host on the machine, named after what the host sees there.
func (h Host) Etc() string    { return filepath.Join(h.Dir, "etc") }
func (h Host) Run() string    { return filepath.Join(h.Dir, "run") }
func (h Host) Lib() string    { return filepath.Join(h.Dir, "lib") }
func (h Host) Images() string { return filepath.Join(h.Dir, "images") }
func (h Host) Log() string    { return filepath.Join(h.Dir, "log") }
func (h Host) Cache() string  { return filepath.Join(h.Dir, "cache") }

// PKI is /etc/pki of the host.
func (h Host) PKI() string { return filepath.Join(h.Etc(), "pki") }

// Socket is the libvirt socket as the machine sees it.
func (h Host) Socket() string { return filepath.Join(h.Run(), "libvirt", "libvirt-sock") }

// URI is how libvirt clients on the machine reach the host.
func (h Host) URI() string { return "qemu+unix:///system?socket=" + h.Socket() }

// MonitorPath is a guest's second QMP monitor as the host sees it: the same on
// every host, since each has its own /run.
func MonitorPath(guest string) string { return "/run/vmmigrate/" + guest + ".qmp" }

// GuestMonitor is the same monitor as the machine sees it.
func (h Host) GuestMonitor(guest string) string {
	return filepath.Join(h.Run(), "vmmigrate", guest+".qmp")
}

// ConsolePath is a guest's serial console log as the host sees it.
func ConsolePath(guest string) string { return "/var/log/libvirt/qemu/" + guest + ".console" }

// GuestConsole is the same log as the machine sees it.
func (h Host) GuestConsole(guest string) string {
	return filepath.Join(h.Log(), "qemu", guest+".console")
}

// WireMigration and WireGuest are the lab's ends of the host's two links.
func (h Host) WireMigration() string { return "mig-" + h.Name }
func (h Host) WireGuest() string     { return "gst-" + h.Name }

// WireTap is the bridge port of a link with a forwarder.
func (h Host) WireTap() string { return "tap-" + h.Name }

// hostUUID is the same each time the same lab comes up, and differs between labs.
func hostUUID(dir, host string) string {
	b := sha256.Sum256([]byte("vmmigrate lab host\x00" + dir + "\x00" + host))
	b[6] = b[6]&0x0f | 0x80 // version 8: made by a scheme of our own
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// errGuestName is returned by CheckGuestName.
var errGuestName = errors.New("use up to 24 letters, digits, dots, dashes and underscores, a letter or digit first")

// MaxGuestName bounds a guest's name, which is part of socket paths.
const MaxGuestName = 24

var guestPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,23}$`)

// CheckGuestName reports why a guest cannot have that name.
func CheckGuestName(name string) error {
	if !guestPattern.MatchString(name) {
		return fmt.Errorf("guest name %q: %w", name, errGuestName)
	}
	return nil
}

// Addresses on the guest network.
var (
	// ClientAddress is the client namespace's address.
	ClientAddress = netip.MustParsePrefix("10.78.0.1/24")
	firstGuest    = netip.MustParseAddr("10.78.0.16")
)

// MaxGuests is how many guests have an address in one lab.
const MaxGuests = 200

// GuestAddress is the address of guest number i, counted from 0.
func GuestAddress(i int) (netip.Prefix, error) {
	if i < 0 || i >= MaxGuests {
		return netip.Prefix{}, fmt.Errorf("a lab has at most %d guests", MaxGuests)
	}
	b := firstGuest.As4()
	b[3] += byte(i)
	return netip.PrefixFrom(netip.AddrFrom4(b), 24), nil
}

// GuestMAC is the hardware address of guest number i, in the range that QEMU
// guests have by convention.
func GuestMAC(i int) string { return fmt.Sprintf("52:54:00:76:6d:%02x", byte(i)) }
