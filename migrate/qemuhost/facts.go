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
		kind := deviceKind(v.Type)
		if kind == "" {
			continue
		}
		dev := migrate.Device{Kind: kind, Alias: v.ID, Detail: v.Type}
		if kind == "memballoon" && h.qomTrue(ctx, v.path, "free-page-reporting") {
			dev.Detail += " with free-page-reporting"
		}
		d.Devices = append(d.Devices, dev)
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
	if err := h.ramFiles(ctx, devs, d); err != nil {
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

// ramFiles tells whether every memory backend is a shared file, and all of the RAM is in them.
func (h *Host) ramFiles(ctx context.Context, devs []qmp.Memdev, d *migrate.DomainFacts) error {
	all, total := len(devs) > 0, int64(0)
	for _, m := range devs {
		path := "/objects/" + text(m.ID)
		kind, err := h.qomString(ctx, path, "type")
		if err != nil {
			return err
		}
		all = all && kind == "memory-backend-file" && m.Share != nil && *m.Share
		total += int64(m.Size)
		if all && d.RAMPath == "" {
			if d.RAMPath, err = h.qomString(ctx, path, "mem-path"); err != nil {
				return err
			}
		}
	}
	if d.RAMFiles = all && total >= d.Memory; !d.RAMFiles {
		d.RAMPath = ""
	}
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
	backends, err := h.netdevs(ctx)
	if err != nil {
		return nil, err
	}
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
		out = append(out, migrate.NIC{MAC: mac, Model: v.Type, Source: netdev, Kind: backends[netdev]})
	}
	return out, nil
}

// netdevs tells the kinds of the network backends by their names. Only QEMU's human monitor tells them.
func (h *Host) netdevs(ctx context.Context) (map[string]string, error) {
	said, err := qmp.HumanMonitorCommand(ctx, h.c, "info network")
	if err != nil {
		return nil, ignoreRefusal(err)
	}
	return parseNetdevs(said), nil
}

// parseNetdevs reads the answer of info network: "net0: index=0,type=vhost-user,…" for a backend, with a mark of its own
// before it if it is plugged into a card.
func parseNetdevs(said string) map[string]string {
	kinds := map[string]string{}
	for line := range strings.Lines(said) {
		name, rest, ok := strings.Cut(strings.TrimLeft(line, " \\"), ": ")
		if !ok {
			continue
		}
		for field := range strings.SplitSeq(strings.TrimSpace(rest), ",") {
			switch kind, ok := strings.CutPrefix(field, "type="); {
			case !ok:
			case kind == "vhost-user":
				kinds[name] = "vhostuser" // as libvirt spells it
			case kind == "vhost-vdpa":
				kinds[name] = "vdpa"
			case kind != "nic":
				kinds[name] = kind
			}
		}
	}
	return kinds
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
	case has("vhost-vdpa"):
		return "vdpa"
	case has("ivshmem"):
		return "shmem"
	case has("virtio-pmem"):
		return "virtio-pmem"
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
