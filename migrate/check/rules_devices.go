package check

import (
	"fmt"
	"slices"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// ruleDevices: some devices cannot follow the guest.
func ruleDevices(f Facts) []Finding {
	g := guestOf(f)
	if g == nil {
		return nil
	}
	var out []Finding
	for _, d := range g.Devices {
		out = append(out, ruleDevice(f, d)...)
	}
	if slices.ContainsFunc(g.Devices, func(d migrate.Device) bool { return d.Kind == "vhost-user" }) {
		return out
	}
	for _, n := range g.NICs {
		if n.Kind == "vhostuser" {
			out = append(out, vhostUser(migrate.Device{Alias: n.MAC, Detail: n.Source})...)
		}
	}
	return out
}

func ruleDevice(f Facts, d migrate.Device) []Finding {
	detach := virsh(f.Source.URI, "detach-device-alias %s %s --live", shellWord(f.Domain), shellWord(d.Alias))
	src := migrate.SideSource
	switch d.Kind {
	case "hostdev", "pci":
		return one(IDDeviceHostdev, Blocker, src, "a device of the source host is assigned to the guest", describe(d), detach)
	case "mdev":
		return one(IDDeviceMdev, Blocker, src, "a mediated device of the source host is assigned to the guest", describe(d), detach)
	case "vhost-user":
		return vhostUser(d)
	case "virtiofs":
		return one(IDDeviceVirtiofs, unlessUnsafe(f.Params), src, "a directory of the source host is shared with the guest",
			describe(d)+"; the destination needs the same one, and a virtiofsd that can be migrated",
			"unmount it in the guest, then: "+detach)
	case "9p":
		return one(IDDeviceDirectory, Warning, src, "a directory of the source host is shared with the guest (9p)",
			describe(d)+"; QEMU refuses to migrate while the guest has it mounted", "unmount it in the guest")
	case "vdpa":
		return one(IDDeviceVDPA, Blocker, src, "a vDPA device of the source host is assigned to the guest", describe(d), detach)
	case "shmem":
		return one(IDDeviceShmem, Warning, src, "the guest shares memory with others on the source host", describe(d),
			"detach it, unless its role is master: "+detach)
	case "tpm":
		return ruleTPM(f, d)
	case "usb":
		return one(IDDeviceUSB, Warning, src, "the guest loses a USB device of the source host",
			describe(d), "expect it to be unplugged, or detach it first: "+detach)
	}
	return nil
}

// describe names a device for a person.
func describe(d migrate.Device) string {
	switch {
	case d.Alias == "":
		return d.Detail
	case d.Detail == "":
		return d.Alias
	}
	return fmt.Sprintf("%s: %s", d.Alias, d.Detail)
}

func vhostUser(d migrate.Device) []Finding {
	return one(IDDeviceVhostUser, Warning, migrate.SideSource, "a device is served by another process (vhost-user)",
		describe(d)+"; it moves only if the process can log dirty pages, and one like it waits at the destination",
		"see that the same backend runs at the destination")
}

// ruleTPM tells a TPM of the host from an emulated one; the driver says so in Detail or the XML does.
func ruleTPM(f Facts, d migrate.Device) []Finding {
	backend := d.Detail
	if g := guestOf(f); g != nil {
		if b := tpmBackend(g.XML); b != "" {
			backend = b
		}
	}
	switch backend {
	case "passthrough":
		return one(IDDeviceTPM, Blocker, migrate.SideSource, "the source host's own TPM is passed through to the guest", describe(d),
			"give the guest an emulated TPM (<backend type='emulator'/>) and restart it")
	case "emulator":
		return nil // libvirt moves swtpm's state along
	}
	return untold(IDDeviceTPM, migrate.SideSource, "whether the guest's TPM is an emulated one", describe(d),
		virsh(f.Source.URI, "dumpxml %s --xpath //tpm", shellWord(f.Domain)))
}

// ruleCDROMs: what lies in a drive has to lie in it at the destination too.
func ruleCDROMs(f Facts) []Finding {
	t := thereOf(f)
	if t == nil {
		return nil
	}
	var out []Finding
	for _, d := range t.Disks {
		if !d.CDROM || d.Path == "" || d.Kind == "network" {
			continue
		}
		eject := "copy it there, or eject it: " + virsh(f.Source.URI, "change-media %s %s --eject --live", shellWord(f.Domain), d.Target)
		img := f.Images[d.Target]
		switch {
		case img.Open():
			out = append(out, untold(IDCDROMMissing, migrate.SideDestination,
				fmt.Sprintf("whether the image in drive %s exists there", d.Target), d.Path+": "+img.Why, eject)...)
		case img.OK && !img.Value.Exists:
			out = append(out, one(IDCDROMMissing, Blocker, migrate.SideDestination,
				fmt.Sprintf("the image in drive %s does not exist there", d.Target), d.Path, eject)...)
		}
	}
	return out
}
