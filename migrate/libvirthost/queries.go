package libvirthost

import (
	"context"
	"encoding/hex"
	"errors"
	"path/filepath"
	"strings"

	"github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// Domains lists the names of all domains, running or not.
func (h *Host) Domains(ctx context.Context) ([]string, error) {
	ds, err := look(ctx, h.c, func(l *libvirt.Libvirt) ([]libvirt.Domain, error) {
		ds, _, err := l.ConnectListAllDomains(1, 0)
		return ds, err
	})
	names := make([]string, 0, len(ds))
	for _, d := range ds {
		names = append(names, d.Name)
	}
	return names, lookFail("list the domains of %s", []any{h.t.raw}, err)
}

// CompareCPU tells whether this host's default emulator can give a guest the CPU that cpuXML describes, a <cpu>
// element as in DomainFacts.CPU. why says in libvirt's words what is missing. An empty cpuXML is compatible.
func (h *Host) CompareCPU(ctx context.Context, cpuXML string) (compatible bool, why string, err error) {
	return h.CompareCPUFor(ctx, Platform{}, cpuXML)
}

// Platform names what a guest runs on. Empty fields are the host's defaults.
type Platform struct {
	Emulator, Arch, Machine string
	// Virt is libvirt's domain type: kvm, or qemu for TCG.
	Virt string
}

// CompareCPUOn is CompareCPUFor with the fields of a Platform as arguments: migrate/check asks in this way, and knows no
// driver's types.
func (h *Host) CompareCPUOn(ctx context.Context, emulator, arch, machine, virt, cpuXML string) (compatible bool, why string, err error) {
	return h.CompareCPUFor(ctx, Platform{Emulator: emulator, Arch: arch, Machine: machine, Virt: virt}, cpuXML)
}

// CompareCPUFor is CompareCPU for a certain emulator, machine type and accelerator.
func (h *Host) CompareCPUFor(ctx context.Context, p Platform, cpuXML string) (compatible bool, why string, err error) {
	if strings.TrimSpace(cpuXML) == "" {
		return true, "", nil
	}
	failIncompatible := uint32(libvirt.ConnectCompareCPUFailIncompatible)
	res, err := look(ctx, h.c, func(l *libvirt.Libvirt) (int32, error) {
		return l.ConnectCompareHypervisorCPU(opt(p.Emulator), opt(p.Arch), opt(p.Machine), opt(p.Virt), cpuXML, failIncompatible)
	})
	switch {
	case err == nil:
		return res > int32(libvirt.CPUCompareIncompatible), "", nil
	case code(err) == libvirt.ErrCPUIncompatible, code(err) == libvirt.ErrInternalError && strings.Contains(err.Error(), "CPU model"):
		return false, err.Error(), nil // the second is a model that this libvirt has never heard of
	}
	return false, "", lookFail("compare the CPU on %s", []any{h.t.raw}, err)
}

func opt(s string) libvirt.OptString {
	if s == "" {
		return nil
	}
	return libvirt.OptString{s}
}

// MachineTypes lists the machine types that an emulator of this host has, aliases and canonical names. Empty
// arguments are the host's defaults; virt is kvm or qemu.
func (h *Host) MachineTypes(ctx context.Context, emulator, arch, virt string) ([]string, error) {
	caps, err := h.caps(ctx)
	if err != nil {
		return nil, lookFail("read the capabilities of %s", []any{h.t.raw}, err)
	}
	return machines(caps, emulator, arch, virt), nil
}

// machines picks them from the capabilities. A domain type or an architecture may have a list of its own.
func machines(caps *libvirtxml.Caps, emulator, arch, virt string) []string {
	seen := map[string]bool{}
	var out []string
	add := func(ms []libvirtxml.CapsGuestMachine) {
		for _, m := range ms {
			for _, n := range []string{m.Name, m.Canonical} {
				if n != "" && !seen[n] {
					seen[n] = true
					out = append(out, n)
				}
			}
		}
	}
	if arch == "" && caps.Host.CPU != nil {
		arch = caps.Host.CPU.Arch
	}
	for _, g := range caps.Guests {
		if g.OSType != "hvm" || (arch != "" && g.Arch.Name != arch) {
			continue
		}
		if emulator == "" || g.Arch.Emulator == emulator {
			add(g.Arch.Machines)
		}
		for _, d := range g.Arch.Domains {
			if virt != "" && d.Type != virt {
				continue
			}
			if emulator == "" || d.Emulator == emulator || (d.Emulator == "" && g.Arch.Emulator == emulator) {
				add(d.Machines)
			}
		}
	}
	return out
}

// Volume tells what the host has at the path of a disk image, as far as its storage pools know. Pools are not
// refreshed for it, since that would be a change.
func (h *Host) Volume(ctx context.Context, path string) (migrate.VolumeFacts, error) {
	var f migrate.VolumeFacts
	vol, err := look(ctx, h.c, func(l *libvirt.Libvirt) (libvirt.StorageVol, error) { return l.StorageVolLookupByPath(path) })
	switch {
	case err == nil:
		if err := h.volume(ctx, vol, &f); err != nil {
			return f, lookFail("look at %s on %s", []any{path, h.t.raw}, err)
		}
	case code(err) != libvirt.ErrNoStorageVol && !errors.Is(err, migrate.ErrNotSupported):
		return f, lookFail("look for %s on %s", []any{path, h.t.raw}, err)
	}
	if f.PoolName == "" {
		err = h.poolOf(ctx, filepath.Dir(path), &f)
	}
	return f, lookFail("look for the storage pool of %s on %s", []any{path, h.t.raw}, err)
}

func (h *Host) volume(ctx context.Context, vol libvirt.StorageVol, f *migrate.VolumeFacts) error {
	desc, err := look(ctx, h.c, func(l *libvirt.Libvirt) (string, error) { return l.StorageVolGetXMLDesc(vol, 0) })
	if err != nil {
		return err
	}
	var v libvirtxml.StorageVolume
	if err := v.Unmarshal(desc); err != nil {
		return err
	}
	f.Exists = true
	if v.Capacity != nil {
		f.Capacity = bytesOf(v.Capacity.Value, v.Capacity.Unit)
	}
	if v.Target != nil && v.Target.Format != nil {
		f.Format = v.Target.Format.Type
	}
	pool, err := look(ctx, h.c, func(l *libvirt.Libvirt) (libvirt.StoragePool, error) { return l.StoragePoolLookupByVolume(vol) })
	if err != nil {
		return nil // the volume is there all the same
	}
	return h.pool(ctx, pool, f)
}

// poolOf finds the pool whose target is the folder dir.
func (h *Host) poolOf(ctx context.Context, dir string, f *migrate.VolumeFacts) error {
	pools, err := look(ctx, h.c, func(l *libvirt.Libvirt) ([]libvirt.StoragePool, error) {
		ps, _, err := l.ConnectListAllStoragePools(1, 0)
		return ps, err
	})
	if errors.Is(err, migrate.ErrNotSupported) {
		return nil
	}
	for _, p := range pools {
		desc, err := look(ctx, h.c, func(l *libvirt.Libvirt) (string, error) { return l.StoragePoolGetXMLDesc(p, 0) })
		if err != nil {
			continue // it went away meanwhile
		}
		var x libvirtxml.StoragePool
		if x.Unmarshal(desc) != nil || x.Target == nil || filepath.Clean(x.Target.Path) != dir {
			continue
		}
		return h.pool(ctx, p, f)
	}
	return err
}

func (h *Host) pool(ctx context.Context, p libvirt.StoragePool, f *migrate.VolumeFacts) error {
	type info struct {
		state uint8
		free  uint64
	}
	i, err := look(ctx, h.c, func(l *libvirt.Libvirt) (info, error) {
		state, _, _, free, err := l.StoragePoolGetInfo(p)
		return info{state, free}, err
	})
	if err != nil {
		return err
	}
	f.PoolName, f.PoolActive = p.Name, i.state == uint8(libvirt.StoragePoolRunning)
	if f.PoolActive {
		free := int64(i.free)
		f.FreeBytes = &free
	}
	return nil
}

// Networks lists libvirt's networks that are started.
func (h *Host) Networks(ctx context.Context) ([]string, error) {
	ns, err := look(ctx, h.c, func(l *libvirt.Libvirt) ([]libvirt.Network, error) {
		ns, _, err := l.ConnectListAllNetworks(1, libvirt.ConnectListNetworksActive)
		return ns, err
	})
	names := make([]string, 0, len(ns))
	for _, n := range ns {
		names = append(names, n.Name)
	}
	return names, lookFail("list the networks of %s", []any{h.t.raw}, err)
}

// HasBridge tells whether the host has a network device of that name; known is false where its libvirt cannot tell,
// as it does without its interface or node device driver.
func (h *Host) HasBridge(ctx context.Context, name string) (known, ok bool) {
	devs, err := look(ctx, h.c, func(l *libvirt.Libvirt) ([]libvirt.NodeDevice, error) {
		ds, _, err := l.ConnectListAllNodeDevices(1, uint32(libvirt.ConnectListNodeDevicesCapNet))
		return ds, err
	})
	if err == nil {
		for _, d := range devs {
			// A network device is called net_NAME_MAC, with what is no letter or digit made an underscore.
			if strings.HasPrefix(d.Name, "net_"+udevName(name)+"_") {
				return true, true
			}
		}
	}
	_, ierr := look(ctx, h.c, func(l *libvirt.Libvirt) (libvirt.Interface, error) { return l.InterfaceLookupByName(name) })
	switch {
	case ierr == nil:
		return true, true
	case code(ierr) == libvirt.ErrNoInterface:
		return true, false
	}
	return err == nil && len(devs) > 0, false
}

func udevName(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, s)
}

// NodeFreeMemory is what a new guest on this host could have, in bytes: free memory and what the kernel can get back
// from its caches. libvirt before 12.3 counts pages of a tmpfs among those, so that it is too much where guests have
// their RAM on one.
func (h *Host) NodeFreeMemory(ctx context.Context) (int64, error) {
	const allCells = -1
	stats := func(n int32) ([]libvirt.NodeGetMemoryStats, int32, error) {
		var count int32
		s, err := look(ctx, h.c, func(l *libvirt.Libvirt) ([]libvirt.NodeGetMemoryStats, error) {
			s, c, err := l.NodeGetMemoryStats(n, allCells, 0)
			count = c
			return s, err
		})
		return s, count, err
	}
	_, n, err := stats(0)
	if err == nil {
		if s, _, err := stats(n); err == nil {
			if free := freeOf(s); free > 0 {
				return free, nil
			}
		}
	}
	free, err := look(ctx, h.c, (*libvirt.Libvirt).NodeGetFreeMemory)
	return int64(free), lookFail("ask %s for its free memory", []any{h.t.raw}, err)
}

// freeOf adds up libvirt's figures, which are in KiB.
func freeOf(stats []libvirt.NodeGetMemoryStats) int64 {
	var sum, available int64
	for _, s := range stats {
		switch s.Field {
		case "free", "buffers", "cached":
			sum += int64(s.Value) << 10
		case "available":
			available = int64(s.Value) << 10
		}
	}
	if available > 0 {
		return available
	}
	return sum
}

// HugePagesFree counts the free pages of size bytes over all of the host's NUMA cells.
func (h *Host) HugePagesFree(ctx context.Context, size int64) (int64, error) {
	caps, err := h.caps(ctx)
	if err != nil {
		return 0, lookFail("read the capabilities of %s", []any{h.t.raw}, err)
	}
	cells := uint32(1)
	if t := caps.Host.NUMA; t != nil && t.Cells != nil {
		cells = max(1, uint32(len(t.Cells.Cells)))
	}
	counts, err := look(ctx, h.c, func(l *libvirt.Libvirt) ([]uint64, error) {
		return l.NodeGetFreePages([]uint32{uint32(size >> 10)}, 0, cells, 0)
	})
	var sum int64
	for _, n := range counts {
		sum += int64(n)
	}
	return sum, lookFail("ask %s for its free huge pages", []any{h.t.raw}, err)
}

// parseUUID reads a UUID with or without dashes.
func parseUUID(s string) (id libvirt.UUID, ok bool) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != len(id) {
		return id, false
	}
	copy(id[:], b)
	return id, true
}

// formatUUID writes a UUID in its canonical form.
func formatUUID(id [16]byte) string {
	h := hex.EncodeToString(id[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
