package param

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
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
}

const (
	// MaxName bounds Config.Name, in bytes.
	MaxName = 64
	// MaxCmdline bounds a kernel command line, in bytes: the kernel cuts off
	// what goes beyond.
	MaxCmdline = 2047

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
	default:
		err = errors.New("unknown word")
	}
	return err
}
