package libvirthost

import (
	"context"
	"encoding/xml"
	"fmt"
	"strings"

	"github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// Domain describes a domain. Name may also be its UUID.
func (h *Host) Domain(ctx context.Context, name string) (migrate.DomainFacts, error) {
	d, err := h.lookup(ctx, name)
	if err != nil {
		return migrate.DomainFacts{}, err
	}
	f, err := h.domain(ctx, d)
	return f, lookFail("describe %q on %s", []any{name, h.t.raw}, err)
}

func (h *Host) domain(ctx context.Context, d libvirt.Domain) (migrate.DomainFacts, error) {
	var f migrate.DomainFacts
	state, err := h.state(ctx, d)
	if err != nil {
		return f, err
	}
	text, err := slowLook(ctx, h.c, func(l *libvirt.Libvirt) (string, error) { return l.DomainGetXMLDesc(d, 0) })
	if err != nil {
		return f, err
	}
	if f, err = FactsOf(text); err != nil {
		return f, err
	}
	f.State = state
	n, err := look(ctx, h.c, func(l *libvirt.Libvirt) (int32, error) { return l.DomainIsPersistent(d) })
	if err != nil {
		return f, err
	}
	f.Persistent = n > 0
	f.XML, err = slowLook(ctx, h.c, func(l *libvirt.Libvirt) (string, error) {
		return l.DomainGetXMLDesc(d, libvirt.DomainXMLMigratable|libvirt.DomainXMLSecure)
	})
	if err != nil {
		return f, err
	}
	for i := range f.Disks {
		h.measure(ctx, d, &f.Disks[i])
	}
	return f, ctx.Err()
}

// measure fills in the sizes of a disk where libvirt can tell them.
func (h *Host) measure(ctx context.Context, d libvirt.Domain, k *migrate.Disk) {
	if k.Path == "" {
		return
	}
	type sizes struct{ alloc, capacity uint64 }
	s, err := slowLook(ctx, h.c, func(l *libvirt.Libvirt) (sizes, error) {
		a, c, _, err := l.DomainGetBlockInfo(d, k.Target, 0)
		return sizes{a, c}, err
	})
	if err == nil {
		k.Capacity, k.Used = int64(s.capacity), int64(s.alloc)
	}
}

// FactsOf reads what a domain's XML tells of it: all but its state and the sizes of its disks.
func FactsOf(text string) (migrate.DomainFacts, error) {
	var x libvirtxml.Domain
	if err := x.Unmarshal(text); err != nil {
		return migrate.DomainFacts{}, fmt.Errorf("read the domain's XML: %w", err)
	}
	f := migrate.DomainFacts{Name: x.Name, UUID: x.UUID, Accel: accel(x.Type), Backing: migrate.BackingAnonymous}
	if x.Memory != nil {
		f.Memory = bytesOf(uint64(x.Memory.Value), x.Memory.Unit)
	}
	if x.VCPU != nil {
		f.VCPUs = int(x.VCPU.Value)
	}
	if x.OS != nil && x.OS.Type != nil {
		f.Machine = x.OS.Type.Machine
	}
	if x.CPU != nil {
		b, err := xml.Marshal(x.CPU)
		if err != nil {
			return f, fmt.Errorf("write the CPU's XML: %w", err)
		}
		f.CPU = string(b)
	}
	readBacking(&x, &f)
	if x.Devices != nil {
		f.Emulator = x.Devices.Emulator
		readDisks(x.Devices, &f)
		readNICs(x.Devices, &f)
		readDevices(x.Devices, &f)
	}
	return f, nil
}

func accel(typ string) string {
	if typ == "qemu" {
		return "tcg"
	}
	return typ
}

// bytesOf applies libvirt's unit, KiB if none is given.
func bytesOf(n uint64, unit string) int64 {
	switch strings.TrimSpace(unit) {
	case "b", "byte", "bytes":
		return int64(n)
	case "KB":
		return int64(n) * 1000
	case "MB":
		return int64(n) * 1000 * 1000
	case "GB":
		return int64(n) * 1000 * 1000 * 1000
	case "M", "MiB":
		return int64(n) << 20
	case "G", "GiB":
		return int64(n) << 30
	case "T", "TiB":
		return int64(n) << 40
	}
	return int64(n) << 10
}

// readBacking finds out what the guest's RAM is made of.
func readBacking(x *libvirtxml.Domain, f *migrate.DomainFacts) {
	if m := x.MemoryBacking; m != nil {
		if m.MemorySource != nil {
			f.Backing = migrate.Backing(m.MemorySource.Type)
		}
		if m.MemoryHugePages != nil {
			f.Backing = migrate.BackingHugetlb
			for _, p := range m.MemoryHugePages.Hugepages {
				f.PageSize = bytesOf(uint64(p.Size), p.Unit)
			}
		}
		f.Shared = m.MemoryAccess != nil && m.MemoryAccess.Mode == "shared"
	}
	if x.CPU != nil && x.CPU.Numa != nil {
		for _, c := range x.CPU.Numa.Cell {
			f.Shared = f.Shared || c.MemAccess == "shared"
		}
	}
	f.RAMFiles = ramFiles(x)
}

// ramFiles tells whether libvirt puts all of the guest's RAM into files that are mapped shared: it does with every shared
// memory that is no memfd.
func ramFiles(x *libvirtxml.Domain) bool {
	access := ""
	if m := x.MemoryBacking; m != nil {
		if m.MemorySource != nil && m.MemorySource.Type == "memfd" {
			return false
		}
		if m.MemoryAccess != nil {
			access = m.MemoryAccess.Mode
		}
	}
	shared := func(own string) bool { return own == "shared" || own == "" && access == "shared" }
	if x.CPU != nil && x.CPU.Numa != nil && len(x.CPU.Numa.Cell) > 0 {
		for _, c := range x.CPU.Numa.Cell {
			if !shared(c.MemAccess) {
				return false
			}
		}
	} else if !shared("") {
		return false
	}
	if x.Devices != nil {
		for _, d := range x.Devices.Memorydevs {
			if d.Model == "dimm" && !shared(d.Access) {
				return false
			}
		}
	}
	return true
}

func readDisks(d *libvirtxml.DomainDeviceList, f *migrate.DomainFacts) {
	for i := range d.Disks {
		x := &d.Disks[i]
		k := migrate.Disk{CDROM: x.Device == "cdrom", ReadOnly: x.ReadOnly != nil, Shareable: x.Shareable != nil}
		if x.Target != nil {
			k.Target = x.Target.Dev
		}
		if x.Driver != nil {
			k.Format, k.Discard = x.Driver.Type, x.Driver.Discard == "unmap"
		}
		if x.Source != nil {
			k.Kind, k.Path = diskSource(x.Source)
		}
		f.Disks = append(f.Disks, k)
	}
}

func diskSource(s *libvirtxml.DomainDiskSource) (kind, path string) {
	switch {
	case s.File != nil:
		return "file", s.File.File
	case s.Block != nil:
		return "block", s.Block.Dev
	case s.Volume != nil:
		return "volume", s.Volume.Pool + "/" + s.Volume.Volume
	case s.Network != nil:
		host := ""
		if hs := s.Network.Hosts; len(hs) > 0 {
			host = hs[0].Name
			if hs[0].Port != "" {
				host += ":" + hs[0].Port
			}
		}
		return "network", s.Network.Protocol + "://" + host + "/" + s.Network.Name
	case s.VHostUser != nil:
		return "vhostuser", ""
	case s.VHostVDPA != nil:
		return "vhostvdpa", s.VHostVDPA.Dev
	case s.NVME != nil:
		return "nvme", ""
	case s.Dir != nil:
		return "dir", s.Dir.Dir
	}
	return "", ""
}

func readNICs(d *libvirtxml.DomainDeviceList, f *migrate.DomainFacts) {
	for i := range d.Interfaces {
		x := &d.Interfaces[i]
		var n migrate.NIC
		if x.MAC != nil {
			n.MAC = x.MAC.Address
		}
		if x.Model != nil {
			n.Model = x.Model.Type
		}
		if x.Source != nil {
			n.Kind, n.Source = nicSource(x.Source)
		}
		f.NICs = append(f.NICs, n)
	}
}

func nicSource(s *libvirtxml.DomainInterfaceSource) (kind, source string) {
	switch {
	case s.Bridge != nil:
		return "bridge", s.Bridge.Bridge
	case s.Network != nil:
		return "network", s.Network.Network
	case s.Direct != nil:
		return "direct", s.Direct.Dev
	case s.User != nil:
		return "user", ""
	case s.VHostUser != nil:
		return "vhostuser", ""
	case s.Hostdev != nil:
		return "hostdev", ""
	case s.Ethernet != nil:
		return "ethernet", ""
	case s.VDPA != nil:
		return "vdpa", s.VDPA.Device
	}
	return "other", ""
}
