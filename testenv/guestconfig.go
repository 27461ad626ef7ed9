package testenv

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/vmmigrate/vmmigrate/testenv/guest"
	"github.com/vmmigrate/vmmigrate/testenv/internal/daemon"
	"github.com/vmmigrate/vmmigrate/testenv/internal/domain"
	"github.com/vmmigrate/vmmigrate/testenv/internal/hugepages"
	"github.com/vmmigrate/vmmigrate/testenv/internal/layout"
	"github.com/vmmigrate/vmmigrate/testenv/workload"
)

// Values of GuestConfig.Backing, Accel and DiskFormat. The first is the default.
const (
	BackingPrivate = "private"
	BackingShared  = "shared"

	AccelAuto = "auto"
	AccelTCG  = "tcg"
	AccelKVM  = "kvm"

	FormatRaw   = "raw"
	FormatQCOW2 = "qcow2"
)

// GuestConfig says what a guest is like.
type GuestConfig struct {
	// Name is up to 24 letters, digits, dots, dashes and underscores.
	Name string `json:"name"`
	// Host is where it starts; empty is the lab's first host.
	Host string `json:"host"`
	// Memory is its RAM in bytes, a whole number of MiB; 0 is 512 MiB.
	Memory int64 `json:"memory_bytes"`
	// CPUs is how many processors it has; 0 is 1. When QEMU 10.0 emulates several
	// (TCG), its own pre-copy now and then misses what one of them writes while the
	// others run, and the guest arrives damaged: migrate such a guest by an engine
	// that tracks RAM itself.
	CPUs int `json:"cpus"`
	// Backing is BackingPrivate, RAM that only QEMU can reach, or BackingShared,
	// RAM in a file of the host's RAM directory.
	Backing string `json:"backing"`
	// PageSize is that of the memory behind its RAM in bytes: 4 KiB, or 2 MiB for
	// huge pages, which the lab borrows from the machine for two hosts and returns
	// when the guest is removed. 0 is 4 KiB.
	PageSize int64 `json:"page_bytes"`
	// NUMA is how many RAM blocks of the same size it has, each a NUMA node of its
	// own (ram-node0, ram-node1 …); 0 is one block without a node (pc.ram).
	NUMA int `json:"numa,omitempty"`
	// Disk is the size of its disk in bytes, a whole number of MiB; 0 is no disk, or
	// those of Disks. DiskFormat is that disk's format.
	Disk       int64  `json:"disk_bytes"`
	DiskFormat string `json:"disk_format"`
	// Disks are its disks, vda, vdb and so on. With Disk given they are to be empty,
	// and hold that one once the guest is started.
	Disks []Disk `json:"disks,omitempty"`
	// Workload is what it does, in workload.Parse's form; empty is idle.
	Workload string `json:"workload"`
	// Accel is AccelAuto (KVM if it can boot the guest's kernel here), AccelTCG or
	// AccelKVM.
	Accel string `json:"accel"`
	// Seed makes what the guest writes; 0 is 1.
	Seed uint64 `json:"seed"`
	// Monitor adds a second QMP socket, on every host. A guest with BackingShared
	// always has one.
	Monitor bool `json:"monitor"`
}

// Disk is a disk of a guest.
type Disk struct {
	// Size is in bytes, a whole number of MiB.
	Size int64 `json:"bytes"`
	// Format is FormatRaw or FormatQCOW2; empty is GuestConfig.DiskFormat.
	Format string `json:"format"`
	// Used is how many bytes are filled before the guest starts, a whole number of MiB,
	// spread over the disk with holes between them. The guest knows what it finds there
	// and holds a migration to it.
	Used int64 `json:"used_bytes,omitempty"`
}

const (
	mib       = 1 << 20
	smallPage = 4 << 10
	maxNUMA   = 8
)

// withDefaults fills in what is empty and refuses what makes no sense.
func (c GuestConfig) withDefaults(firstHost string) (GuestConfig, error) {
	set := func(s *string, value string) {
		if *s == "" {
			*s = value
		}
	}
	set(&c.Host, firstHost)
	set(&c.Backing, BackingPrivate)
	set(&c.DiskFormat, FormatRaw)
	set(&c.Workload, "idle")
	set(&c.Accel, AccelAuto)
	c.Memory = max(c.Memory, 0)
	if c.Memory == 0 {
		c.Memory = 512 * mib
	}
	if c.CPUs == 0 {
		c.CPUs = 1
	}
	if c.PageSize == 0 {
		c.PageSize = smallPage
	}
	if err := c.fillDisks(); err != nil {
		return c, fmt.Errorf("guest %s: %w", c.Name, err)
	}
	c.Monitor = c.Monitor || c.Backing == BackingShared
	if c.Seed == 0 {
		c.Seed = 1
	}
	if err := c.check(); err != nil {
		return c, fmt.Errorf("guest %s: %w", c.Name, err)
	}
	return c, nil
}

// Check reports what of the configuration makes no sense; a lab may still refuse a
// guest that it has no room for.
func (c GuestConfig) Check() error {
	_, err := c.withDefaults("a")
	return err
}

func (c GuestConfig) check() error {
	w, err := workload.Parse(c.Workload)
	if err != nil {
		return err
	}
	least := guest.MinMemory(w.Memory())
	return errors.Join(
		layout.CheckGuestName(c.Name),
		oneOf("backing", c.Backing, BackingPrivate, BackingShared),
		oneOf("disk format", c.DiskFormat, FormatRaw, FormatQCOW2),
		oneOf("accelerator", c.Accel, AccelAuto, AccelTCG, AccelKVM),
		when(c.Memory%mib != 0, "memory %d is not a whole number of MiB", c.Memory),
		when(c.Memory < least, "memory %d MiB is too little for the workload %q; give it at least %d MiB", c.Memory/mib, c.Workload, (least+mib-1)/mib),
		c.checkDisks(),
		when(c.PageSize != smallPage && c.PageSize != hugepages.Size, "pages of %d bytes; there are pages of 4 KiB and of 2 MiB", c.PageSize),
		when(c.NUMA < 0 || c.NUMA > maxNUMA, "%d NUMA nodes; it can have up to %d", c.NUMA, maxNUMA),
		when(c.Memory%(int64(max(c.NUMA, 1))*max(c.PageSize, mib)) != 0, "memory %d MiB is not the same number of whole pages for each node", c.Memory/mib),
		when(c.CPUs < 1 || c.CPUs > 64, "%d processors; it can have 1 to 64", c.CPUs),
	)
}

// when is an error if the condition holds.
func when(wrong bool, format string, args ...any) error {
	if !wrong {
		return nil
	}
	return fmt.Errorf(format, args...)
}

func oneOf(what, value string, choices ...string) error {
	for _, c := range choices {
		if value == c {
			return nil
		}
	}
	return fmt.Errorf("%s %q is none of %v", what, value, choices)
}

// domainSpec is the domain for the guest at its place on the network.
func (c GuestConfig) domainSpec(ctx context.Context, place daemon.Guest) (domain.Spec, error) {
	assets, err := guest.Find()
	if err != nil {
		return domain.Spec{}, err
	}
	mac, err := net.ParseMAC(place.MAC)
	if err != nil {
		return domain.Spec{}, err
	}
	boot, err := assets.Boot(guest.Config{
		Name: c.Name, Addr: place.Address, Gateway: layout.ClientAddress.Addr(), MAC: mac, Workload: c.Workload, Seed: c.Seed,
		Disks: c.used(),
	})
	if err != nil {
		return domain.Spec{}, err
	}
	kvm, err := c.useKVM(ctx, assets)
	if err != nil {
		return domain.Spec{}, err
	}
	s := domain.Spec{
		Name: c.Name, Memory: uint64(c.Memory), CPUs: uint(c.CPUs), Shared: c.Backing == BackingShared, KVM: kvm,
		Kernel: boot.Kernel, Initrd: boot.Initrd, Cmdline: boot.Cmdline,
		MAC: place.MAC, Console: layout.ConsolePath(c.Name), NUMA: uint(c.NUMA),
	}
	if c.PageSize == hugepages.Size {
		s.PageSize = hugepages.Size
	}
	for i, d := range c.Disks {
		s.Disks = append(s.Disks, domain.Disk{Name: diskName(i), Path: layout.ImagesDir + "/" + c.imageFile(i), Format: d.Format})
	}
	if c.Monitor {
		s.Monitor = layout.MonitorPath(c.Name)
	}
	return s, nil
}

// useKVM decides what runs the guest. Where that is left open, one is booted to
// try, once for each machine.
func (c GuestConfig) useKVM(ctx context.Context, assets guest.Assets) (bool, error) {
	if c.Accel != AccelAuto {
		return c.Accel == AccelKVM, nil
	}
	accel, err := assets.Accel(ctx)
	return accel == guest.KVM, err
}
