package testenv

import (
	"os"
	"path/filepath"

	"github.com/vmmigrate/vmmigrate/testenv/internal/hugepages"
	"github.com/vmmigrate/vmmigrate/testenv/internal/layout"
	"github.com/vmmigrate/vmmigrate/testenv/link"
)

// Defaults of a Config.
const (
	DefaultName = "lab"
	DefaultDir  = "/var/tmp/vmmigrate-lab"
	// DirEnv names the variable that replaces DefaultDir.
	DirEnv = "VMMIGRATE_LAB_DIR"
)

// Config says what a lab is like.
type Config struct {
	// Name is up to 32 lower-case letters, digits and dashes; empty is DefaultName.
	Name string
	// Dir is the directory in which the lab has its own, Dir/Name. It must be
	// absolute and short, since paths of sockets are limited to 107 bytes. Empty is
	// the value of DirEnv, or DefaultDir.
	Dir string
	// Hosts are the names of the hosts, up to 8 letters each; empty is a and b.
	Hosts []string
	// Link is what each host's link to the migration network is like at first.
	Link link.Spec
	// Bare hosts have no libvirtd: a network, mounts and processes of their own, in
	// which Host.Start can run a QEMU. They need no libvirt on the machine.
	Bare bool
	// Bound labs end with the process that called Up, however that ends.
	Bound bool
	// Progress, if not nil, is told each step that is done, one call at a time.
	Progress func(step string)
}

// HostNames returns the usual names of n hosts: a, b, c, …
func HostNames(n int) []string { return layout.HostNames(n) }

// directory returns where labs are, given what the caller asked for.
func directory(dir string) string {
	if dir == "" {
		dir = os.Getenv(DirEnv)
	}
	if dir == "" {
		dir = DefaultDir
	}
	return filepath.Clean(dir)
}

// plan applies the defaults and works out the rest.
func (c Config) plan() (layout.Plan, error) {
	if c.Name == "" {
		c.Name = DefaultName
	}
	if len(c.Hosts) == 0 {
		c.Hosts = HostNames(2)
	}
	p, err := layout.New(c.Name, directory(c.Dir), c.Hosts, c.Link)
	p.Bare, p.HugePages = c.Bare, hugepages.Supported()
	return p, err
}
