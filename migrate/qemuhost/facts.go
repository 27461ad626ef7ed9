package qemuhost

import (
	"context"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// Facts tells of the machine that QEMU runs on, which is ours: the QMP socket is a file here.
func (h *Host) Facts(ctx context.Context) (migrate.HostFacts, error) {
	v := h.c.Version().QEMU
	f := migrate.HostFacts{Driver: "qemu", QEMUVer: migrate.Version{Major: v.Major, Minor: v.Minor, Micro: v.Micro}, Local: true}
	var err error
	if f.Arch, err = qmp.QueryTarget(ctx, h.c); err != nil {
		return f, migrate.Fail("ask QEMU what it is", "", err, "")
	}
	if name, err := os.Hostname(); err == nil {
		f.Hostname = name
	}
	f.FreeBytes = freeMemory()
	f.Asked = time.Now()
	f.Clock = f.Asked
	return f, nil
}

// freeMemory reads MemAvailable; nil if it cannot.
func freeMemory() *int64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "MemAvailable:" {
			continue
		}
		kib, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			return nil
		}
		n := kib << 10
		return &n
	}
	return nil
}

// Domain describes the guest.
func (h *Host) Domain(ctx context.Context, name string) (migrate.DomainFacts, error) {
	d, err := h.domain(ctx, name)
	return d, migrate.Fail("describe the guest", "", err, "")
}

func (h *Host) domain(ctx context.Context, name string) (migrate.DomainFacts, error) {
	st, err := h.state(ctx, name)
	if err != nil {
		return migrate.DomainFacts{}, err
	}
	g, err := h.describe(ctx)
	if err != nil {
		return migrate.DomainFacts{}, err
	}
	d := migrate.DomainFacts{Name: g.Name, UUID: g.UUID, State: st, Memory: g.Memory, VCPUs: g.VCPUs, Machine: g.Machine,
		Accel: g.Accel, CPU: g.CPU}
	for _, k := range g.Disks {
		d.Disks = append(d.Disks, migrate.Disk{Target: k.Target, Path: k.file, Kind: diskKind(k.file), Format: k.format,
			Capacity: k.Capacity, Used: k.used, ReadOnly: k.ReadOnly, CDROM: k.Removable})
	}
	for _, v := range g.Devices {
		if kind := deviceKind(v.Type); kind != "" {
			d.Devices = append(d.Devices, migrate.Device{Kind: kind, Alias: v.ID, Detail: v.Type})
		}
	}
	if d.NICs, err = h.nics(ctx, g.Devices); err != nil {
		return migrate.DomainFacts{}, err
	}
	return d, h.backing(ctx, g, &d)
}

// backing tells what the machine's RAM is made of.
func (h *Host) backing(ctx context.Context, g guest, d *migrate.DomainFacts) error {
	kind, err := h.qomString(ctx, g.memoryID, "type")
	if err != nil {
		return err
	}
	id := g.memoryID[strings.LastIndexByte(g.memoryID, '/')+1:]
	devs, err := qmp.QueryMemdev(ctx, h.c)
	if ignoreRefusal(err) != nil {
		return err
	}
	for _, m := range devs {
		d.Shared = d.Shared || text(m.ID) == id && m.Share != nil && *m.Share
	}
	for _, b := range g.RAM {
		if b.Name == id || strings.HasSuffix(b.Name, "/"+id) {
			d.PageSize = b.pageSize
		}
	}
	d.Backing = backingOf(kind, d.PageSize)
	return nil
}

func backingOf(kind string, page int64) migrate.Backing {
	if page > int64(os.Getpagesize()) {
		return migrate.BackingHugetlb
	}
	switch kind {
	case "memory-backend-ram":
		return migrate.BackingAnonymous
	case "memory-backend-file":
		return migrate.BackingFile
	case "memory-backend-memfd":
		return migrate.BackingMemfd
	}
	return ""
}

// nics finds the network cards by their property mac.
func (h *Host) nics(ctx context.Context, devices []device) ([]migrate.NIC, error) {
	var out []migrate.NIC
	for _, v := range devices {
		if deviceKind(v.Type) != "" || strings.Contains(v.Type, "blk") {
			continue
		}
		mac, err := h.qomString(ctx, v.path, "mac")
		if err != nil {
			return nil, err
		}
		if mac == "" {
			continue
		}
		netdev, err := h.qomString(ctx, v.path, "netdev")
		if err != nil {
			return nil, err
		}
		out = append(out, migrate.NIC{MAC: mac, Model: v.Type, Source: netdev})
	}
	return out, nil
}

func diskKind(file string) string {
	switch {
	case file == "":
		return ""
	case strings.HasPrefix(file, "/dev/"):
		return "block"
	case strings.HasPrefix(file, "json:"), strings.Contains(file, "://"):
		return "network"
	}
	return "file"
}

// deviceKind names the devices that may forbid a migration, by QEMU's type; "" is any other.
func deviceKind(qom string) string {
	has := func(s string) bool { return strings.Contains(qom, s) }
	switch {
	case has("vhost-user-fs"):
		return "virtiofs"
	case has("vhost-user"):
		return "vhost-user"
	case has("vfio"):
		return "hostdev"
	case has("virtio-mem"):
		return "virtio-mem"
	case has("virtio-balloon"):
		return "memballoon"
	case has("usb-host"):
		return "usb"
	case strings.HasPrefix(qom, "tpm"):
		return "tpm"
	case has("virtio-9p"):
		return "virtfs"
	}
	return ""
}
