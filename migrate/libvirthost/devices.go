package libvirthost

import (
	"libvirt.org/go/libvirtxml"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// readDevices lists the devices that may forbid a migration or parts of it.
func readDevices(d *libvirtxml.DomainDeviceList, f *migrate.DomainFacts) {
	add := func(kind string, alias *libvirtxml.DomainAlias, detail string) {
		dev := migrate.Device{Kind: kind, Detail: detail}
		if alias != nil {
			dev.Alias = alias.Name
		}
		f.Devices = append(f.Devices, dev)
	}
	for i := range d.Hostdevs {
		kind, detail := hostdev(&d.Hostdevs[i])
		add(kind, d.Hostdevs[i].Alias, detail)
	}
	for i := range d.Interfaces {
		x := &d.Interfaces[i]
		switch kind, _ := "", x.Source; {
		case x.Source == nil:
		case x.Source.VHostUser != nil:
			add("vhost-user", x.Alias, "network card")
		case x.Source.Hostdev != nil:
			add("hostdev", x.Alias, "network card")
		case x.Source.VDPA != nil:
			add("vdpa", x.Alias, x.Source.VDPA.Device+kind)
		}
	}
	for i := range d.Disks {
		if x := &d.Disks[i]; x.Source != nil && (x.Source.VHostUser != nil || x.Source.VHostVDPA != nil) {
			add("vhost-user", x.Alias, "disk")
		}
	}
	for i := range d.Videos {
		if x := &d.Videos[i]; x.Driver != nil && x.Driver.Name == "vhostuser" {
			add("vhost-user", x.Alias, "graphics card")
		}
	}
	for i := range d.Filesystems {
		x := &d.Filesystems[i]
		kind, target := "9p", ""
		if x.Driver != nil && x.Driver.Type == "virtiofs" {
			kind = "virtiofs"
		}
		if x.Target != nil {
			target = x.Target.Dir
		}
		add(kind, x.Alias, target)
	}
	readSmallDevices(d, add)
}

// readSmallDevices lists those that mostly migrate and sometimes do not.
func readSmallDevices(d *libvirtxml.DomainDeviceList, add func(kind string, alias *libvirtxml.DomainAlias, detail string)) {
	for i := range d.TPMs {
		x := &d.TPMs[i]
		detail := "passthrough"
		if x.Backend != nil && x.Backend.Emulator != nil {
			detail = "emulator"
		}
		add("tpm", x.Alias, detail)
	}
	for i := range d.Shmems {
		add("shmem", d.Shmems[i].Alias, d.Shmems[i].Name)
	}
	for i := range d.Memorydevs {
		x := &d.Memorydevs[i]
		kind := x.Model
		if kind == "virtio-mem" || kind == "nvdimm" || kind == "virtio-pmem" || kind == "dimm" {
			add(kind, x.Alias, "")
		}
	}
	for i := range d.RedirDevs {
		add("usb", d.RedirDevs[i].Alias, "redirected")
	}
	for i := range d.Channels {
		x := &d.Channels[i]
		if x.Target != nil && x.Target.VirtIO != nil {
			add("channel", x.Alias, x.Target.VirtIO.Name)
		}
	}
	if b := d.MemBalloon; b != nil && b.Model != "none" {
		add("balloon", b.Alias, b.Model)
	}
	if d.VSock != nil {
		add("vsock", d.VSock.Alias, "")
	}
}

func hostdev(x *libvirtxml.DomainHostdev) (kind, detail string) {
	switch {
	case x.SubsysPCI != nil:
		return "pci", "PCI device of the host"
	case x.SubsysMDev != nil:
		return "mdev", x.SubsysMDev.Model
	case x.SubsysUSB != nil:
		return "usb", "USB device of the host"
	case x.SubsysSCSI != nil, x.SubsysSCSIHost != nil:
		return "hostdev", "SCSI device of the host"
	}
	return "hostdev", ""
}
