package domain

import (
	"fmt"

	"libvirt.org/go/libvirtxml"

	"github.com/vmmigrate/vmmigrate/testenv/internal/layout"
)

// Spec is what a guest's domain is made from.
type Spec struct {
	Name string
	// Memory is in bytes, a whole number of KiB; CPUs is at least 1.
	Memory uint64
	CPUs   uint
	// Shared RAM is a file in the host's RAM directory that other processes can
	// map; otherwise it is private memory of QEMU.
	Shared bool
	// PageSize is that of huge pages behind the RAM in bytes; 0 is the usual pages.
	PageSize uint64
	// NUMA is how many nodes share the RAM and the processors, each with a RAM block
	// of its own; 0 is one block and no nodes.
	NUMA uint
	// KVM is set where the processor runs the guest, not QEMU's emulation.
	KVM bool
	// Disks are its disks.
	Disks []Disk
	// Kernel, Initrd and Cmdline boot the guest.
	Kernel, Initrd, Cmdline string
	// MAC is the card's hardware address.
	MAC string
	// Console is the path of the serial console's log on the host.
	Console string
	// Monitor is the path of a second QMP socket; empty is none.
	Monitor string
}

// Disk is a disk of a guest.
type Disk struct {
	// Name is the guest's for it: vda, vdb and so on.
	Name string
	// Path is the image's on the host. Format is raw or qcow2.
	Path, Format string
}

// XML writes the domain.
func XML(s Spec) (string, error) {
	d := libvirtxml.Domain{
		Type:     "qemu",
		Name:     s.Name,
		Memory:   &libvirtxml.DomainMemory{Value: uint(s.Memory >> 10), Unit: "KiB"},
		VCPU:     &libvirtxml.DomainVCPU{Value: s.CPUs},
		OS:       boot(s),
		Features: &libvirtxml.DomainFeatureList{ACPI: &libvirtxml.DomainFeature{}, APIC: &libvirtxml.DomainFeatureAPIC{}},
		// A guest that panics or reboots has failed: it must not come back with
		// its memory fresh, as if nothing had happened.
		OnPoweroff: "destroy", OnReboot: "destroy", OnCrash: "destroy",
		Devices: devices(s),
	}
	if s.KVM {
		d.Type = "kvm"
		// All hosts of a lab are the same machine.
		d.CPU = &libvirtxml.DomainCPU{Mode: "host-passthrough", Check: "none", Migratable: "on"}
	}
	d.MemoryBacking = backing(s)
	if s.NUMA > 0 {
		if d.CPU == nil {
			d.CPU = &libvirtxml.DomainCPU{}
		}
		d.CPU.Numa = &libvirtxml.DomainNuma{Cell: cells(s)}
	}
	if s.Monitor != "" {
		d.QEMUCommandline = monitor(s.Monitor)
	}
	xml, err := d.Marshal()
	if err != nil {
		return "", fmt.Errorf("domain of guest %s: %w", s.Name, err)
	}
	return xml, nil
}

// backing says what is behind the RAM; nil is libvirt's default.
func backing(s Spec) *libvirtxml.DomainMemoryBacking {
	if !s.Shared && s.PageSize == 0 {
		return nil
	}
	b := &libvirtxml.DomainMemoryBacking{}
	if s.Shared {
		b.MemorySource = &libvirtxml.DomainMemorySource{Type: "file"}
		b.MemoryAccess = &libvirtxml.DomainMemoryAccess{Mode: "shared"}
	}
	if s.PageSize > 0 {
		b.MemoryHugePages = &libvirtxml.DomainMemoryHugepages{
			Hugepages: []libvirtxml.DomainMemoryHugepage{{Size: uint(s.PageSize >> 10), Unit: "KiB"}},
		}
	}
	return b
}

// cells divides RAM and processors among the nodes. With fewer processors than
// nodes the last nodes have memory only.
func cells(s Spec) []libvirtxml.DomainCell {
	var list []libvirtxml.DomainCell
	each := (s.CPUs + s.NUMA - 1) / s.NUMA
	for i := range s.NUMA {
		c := libvirtxml.DomainCell{ID: &i, Memory: uint(s.Memory>>10) / s.NUMA, Unit: "KiB"}
		if first, next := min(i*each, s.CPUs), min((i+1)*each, s.CPUs); first < next {
			c.CPUs = fmt.Sprintf("%d-%d", first, next-1)
		}
		if s.Shared {
			c.MemAccess = "shared"
		}
		list = append(list, c)
	}
	return list
}

func boot(s Spec) *libvirtxml.DomainOS {
	return &libvirtxml.DomainOS{
		Type:    &libvirtxml.DomainOSType{Arch: "x86_64", Machine: "q35", Type: "hvm"},
		Kernel:  s.Kernel,
		Initrd:  s.Initrd,
		Cmdline: s.Cmdline,
	}
}

func devices(s Spec) *libvirtxml.DomainDeviceList {
	port := uint(0)
	d := &libvirtxml.DomainDeviceList{
		Emulator:    "/usr/bin/qemu-system-x86_64",
		Controllers: []libvirtxml.DomainController{{Type: "usb", Model: "none"}},
		Interfaces: []libvirtxml.DomainInterface{{
			MAC:    &libvirtxml.DomainInterfaceMAC{Address: s.MAC},
			Source: &libvirtxml.DomainInterfaceSource{Bridge: &libvirtxml.DomainInterfaceSourceBridge{Bridge: layout.GuestBridge}},
			Model:  &libvirtxml.DomainInterfaceModel{Type: "virtio"},
			ROM:    &libvirtxml.DomainROM{Enabled: "no"},
		}},
		Serials: []libvirtxml.DomainSerial{{
			Source: &libvirtxml.DomainChardevSource{File: &libvirtxml.DomainChardevSourceFile{Path: s.Console, Append: "on"}},
			Target: &libvirtxml.DomainSerialTarget{Port: &port},
		}},
		Videos:     []libvirtxml.DomainVideo{{Model: libvirtxml.DomainVideoModel{Type: "none"}}},
		MemBalloon: &libvirtxml.DomainMemBalloon{Model: "none"},
	}
	for _, disk := range s.Disks {
		d.Disks = append(d.Disks, libvirtxml.DomainDisk{
			Device: "disk",
			Driver: &libvirtxml.DomainDiskDriver{Name: "qemu", Type: disk.Format, Discard: "unmap"},
			Source: &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: disk.Path}},
			Target: &libvirtxml.DomainDiskTarget{Dev: disk.Name, Bus: "virtio"},
		})
	}
	return d
}

// monitor adds a QMP socket of our own beside libvirt's.
func monitor(path string) *libvirtxml.DomainQEMUCommandline {
	var args []libvirtxml.DomainQEMUCommandlineArg
	for _, a := range []string{
		"-chardev", "socket,id=vmmigrate,path=" + path + ",server=on,wait=off",
		"-mon", "chardev=vmmigrate,mode=control",
	} {
		args = append(args, libvirtxml.DomainQEMUCommandlineArg{Value: a})
	}
	return &libvirtxml.DomainQEMUCommandline{Args: args}
}
