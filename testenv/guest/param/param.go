package param

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vmmigrate/vmmigrate/testenv/workload"
)

// Config is one guest.
type Config struct {
	// Name is what the guest calls itself: letters, digits, "-", "_" and ".",
	// at most MaxName bytes.
	Name string
	// Addr is the address of the guest's network card with the length of its
	// network's prefix.
	Addr netip.Prefix
	// Gateway is where other networks are reached; the zero value is none.
	Gateway netip.Addr
	// MAC picks the network card. Nil takes the first one.
	MAC net.HardwareAddr
	// Workload is in workload.Parse's form; empty means "idle".
	Workload string
	// Seed makes the guest's fill and its choice of pages.
	Seed uint64
	// Disks says of each of its disks how many bytes were filled before it boots
	// (oracle.FillDisk). One that has none of them says why it cannot start; where
	// Disks is empty it takes those that there are.
	Disks []int64
}

const (
	// MaxName bounds Config.Name, in bytes.
	MaxName = 64
	// MaxCmdline bounds a kernel command line, in bytes: the kernel cuts off
	// what goes beyond.
	MaxCmdline = 2047
	// MaxDisks bounds Config.Disks.
	MaxDisks = 16

	prefix = "vmm."
)

// ErrConfig is wrapped by every error of this package.
var ErrConfig = errors.New("guest configuration")

// Validate says what is wrong with a configuration, or nil.
func (c Config) Validate() error {
	if err := validName(c.Name); err != nil {
		return err
	}
	if !c.Addr.IsValid() || !c.Addr.Addr().Is4() {
		return fmt.Errorf("%w: address %v: want an IPv4 address with a prefix length, as in 10.0.0.2/24", ErrConfig, c.Addr)
	}
	if c.Gateway.IsValid() && !c.Gateway.Is4() {
		return fmt.Errorf("%w: gateway %v is not an IPv4 address", ErrConfig, c.Gateway)
	}
	if len(c.MAC) != 0 && len(c.MAC) != 6 {
		return fmt.Errorf("%w: MAC %v: want 6 bytes", ErrConfig, c.MAC)
	}
	if len(c.Disks) > MaxDisks || slices.ContainsFunc(c.Disks, func(used int64) bool { return used < 0 }) {
		return fmt.Errorf("%w: disks %v: want at most %d, each with a number of bytes", ErrConfig, c.Disks, MaxDisks)
	}
	if _, err := workload.Parse(c.workload()); err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return nil
}

func validName(name string) error {
	if name == "" || len(name) > MaxName {
		return fmt.Errorf("%w: name %.80q: want 1 to %d bytes", ErrConfig, name, MaxName)
	}
	for _, r := range name {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_', r == '.':
		default:
			return fmt.Errorf("%w: name %q: want letters, digits, \"-\", \"_\" and \".\"", ErrConfig, name)
		}
	}
	return nil
}

func (c Config) workload() string {
	if c.Workload == "" {
		return "idle"
	}
	return c.Workload
}

// Words are the configuration's words for a kernel command line.
func (c Config) Words() ([]string, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	words := []string{
		prefix + "name=" + c.Name,
		prefix + "ip=" + c.Addr.String(),
		prefix + "seed=" + strconv.FormatUint(c.Seed, 10),
		prefix + "workload=" + c.workload(),
	}
	if c.Gateway.IsValid() {
		words = append(words, prefix+"gw="+c.Gateway.String())
	}
	if len(c.MAC) != 0 {
		words = append(words, prefix+"mac="+c.MAC.String())
	}
	if len(c.Disks) > 0 {
		var used []string
		for _, n := range c.Disks {
			used = append(used, strconv.FormatInt(n, 10))
		}
		words = append(words, prefix+"disks="+strings.Join(used, ","))
	}
	return words, nil
}

// Parse reads the configuration from a kernel command line.
func Parse(cmdline string) (Config, error) {
	if len(cmdline) > MaxCmdline+1 {
		return Config{}, fmt.Errorf("%w: command line of %d bytes, at most %d are read", ErrConfig, len(cmdline), MaxCmdline)
	}
	var c Config
	for _, word := range strings.Fields(cmdline) {
		word, ours := strings.CutPrefix(word, prefix)
		if !ours {
			continue
		}
		key, value, _ := strings.Cut(word, "=")
		if err := c.set(key, value); err != nil {
			return Config{}, fmt.Errorf("%w: %s%s=%s: %w", ErrConfig, prefix, key, value, err)
		}
	}
	return c, c.Validate()
}

func (c *Config) set(key, value string) (err error) {
	switch key {
	case "name":
		c.Name = value
	case "ip":
		c.Addr, err = netip.ParsePrefix(value)
	case "gw":
		c.Gateway, err = netip.ParseAddr(value)
	case "mac":
		c.MAC, err = net.ParseMAC(value)
	case "workload":
		c.Workload = value
	case "seed":
		c.Seed, err = strconv.ParseUint(value, 10, 64)
	case "disks":
		c.Disks, err = parseDisks(value)
	default:
		err = errors.New("unknown word")
	}
	return err
}

// parseDisks reads the bytes filled of each disk.
func parseDisks(text string) ([]int64, error) {
	if n := strings.Count(text, ",") + 1; n > MaxDisks {
		return nil, fmt.Errorf("%d disks, at most %d are read", n, MaxDisks)
	}
	var disks []int64
	for word := range strings.SplitSeq(text, ",") {
		used, err := strconv.ParseInt(word, 10, 64)
		if err != nil {
			return nil, err
		}
		disks = append(disks, used)
	}
	return disks, nil
}
