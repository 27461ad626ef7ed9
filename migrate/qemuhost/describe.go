package qemuhost

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// guest is what a destination has to have alike. It travels as JSON in Offer.XML.
type guest struct {
	Name     string     `json:"name"`
	UUID     string     `json:"uuid,omitempty"`
	QEMU     string     `json:"qemu"`
	Machine  string     `json:"machine"`
	Accel    string     `json:"accel"`
	CPU      string     `json:"cpu,omitempty"`
	Memory   int64      `json:"memory"`
	VCPUs    int        `json:"vcpus"`
	RAM      []ramBlock `json:"ram,omitempty"`
	Devices  []device   `json:"devices,omitempty"`
	Disks    []disk     `json:"disks,omitempty"`
	memoryID string     // path of the backend of the machine's RAM
}

// ramBlock is one of QEMU's RAM blocks.
type ramBlock struct {
	Name     string `json:"name"`
	Size     int64  `json:"size"`
	pageSize int64
}

// device is one that was given on the command line or plugged in.
type device struct {
	// ID is its own, or device[N] for the Nth without one.
	ID   string `json:"id"`
	Type string `json:"type"`
	path string
}

// disk is one block device of the guest.
type disk struct {
	Target   string `json:"target"`
	Node     string `json:"-"`
	Capacity int64  `json:"capacity,omitempty"`
	ReadOnly bool   `json:"read_only,omitempty"`
	// Removable marks CD and floppy drives.
	Removable bool `json:"removable,omitempty"`
	// Empty marks a drive without a medium.
	Empty  bool `json:"empty,omitempty"`
	format string
	file   string
	used   int64
}

// describe reads all of it.
func (h *Host) describe(ctx context.Context) (guest, error) {
	g := guest{Name: h.id.name, UUID: h.id.uuid, QEMU: h.c.Version().String()}
	steps := []func(context.Context, *guest) error{h.describeMachine, h.describeMemory, h.describeCPU, h.describeDevices}
	for _, step := range steps {
		if err := step(ctx, &g); err != nil {
			return g, err
		}
	}
	var err error
	g.Disks, err = h.listDisks(ctx)
	return g, err
}

func (h *Host) describeMachine(ctx context.Context, g *guest) error {
	kind, err := h.qomString(ctx, "/machine", "type")
	if err != nil {
		return err
	}
	g.Machine = strings.TrimSuffix(kind, "-machine")
	kvm, err := qmp.QueryKVM(ctx, h.c)
	if ignoreRefusal(err) != nil {
		return err
	}
	g.Accel = "tcg"
	if kvm.Enabled {
		g.Accel = "kvm"
	}
	return nil
}

func (h *Host) describeMemory(ctx context.Context, g *guest) error {
	size, err := qmp.QueryMemorySizeSummary(ctx, h.c)
	if err != nil {
		return err
	}
	g.Memory = int64(size.Base)
	if size.Plugged != nil {
		g.Memory += int64(*size.Plugged)
	}
	if g.memoryID, err = h.qomString(ctx, "/machine", "memory-backend"); err != nil {
		return err
	}
	table, err := qmp.QueryRAMBlockText(ctx, h.c)
	if err != nil {
		return ignoreRefusal(err)
	}
	blocks, err := qmp.ParseRAMBlocks(table)
	if err != nil {
		h.log.Warn("QEMU's RAM blocks are not compared", "err", err) // its table is unstable; the sizes still are
		return nil
	}
	for _, b := range blocks {
		if b.Name != "" {
			g.RAM = append(g.RAM, ramBlock{Name: b.Name, Size: int64(b.Total), pageSize: int64(b.PageSize)})
		}
	}
	return nil
}

func (h *Host) describeCPU(ctx context.Context, g *guest) error {
	cpus, err := qmp.QueryCPUsFast(ctx, h.c)
	if err != nil {
		return err
	}
	g.VCPUs = len(cpus)
	if len(cpus) == 0 {
		return nil
	}
	g.CPU, err = h.qomString(ctx, cpus[0].QOMPath, "type")
	return err
}

func (h *Host) describeDevices(ctx context.Context, g *guest) error {
	for _, dir := range []string{"/machine/peripheral", "/machine/peripheral-anon"} {
		ps, err := qmp.QOMList(ctx, h.c, dir)
		if err != nil {
			return err
		}
		for _, p := range ps {
			kind, ok := strings.CutPrefix(p.Type, "child<")
			if !ok {
				continue
			}
			g.Devices = append(g.Devices, device{ID: p.Name, Type: strings.TrimSuffix(kind, ">"), path: dir + "/" + p.Name})
		}
	}
	return nil
}

// listDisks reads the block devices that guest devices are attached to.
func (h *Host) listDisks(ctx context.Context) ([]disk, error) {
	blocks, err := qmp.QueryBlock(ctx, h.c)
	if err != nil {
		return nil, err
	}
	var out []disk
	for _, b := range blocks {
		if text(b.Qdev) == "" {
			continue // a drive that no device uses
		}
		d := disk{Target: target(b), Removable: b.Removable, ReadOnly: true, Empty: b.Inserted == nil}
		if in := b.Inserted; in != nil {
			d.Node, d.ReadOnly, d.format, d.file = text(in.NodeName), in.ReadOnly, in.Driver, in.File
			d.Capacity = in.Image.VirtualSize
			if in.Image.ActualSize != nil {
				d.used = *in.Image.ActualSize
			}
		}
		out = append(out, d)
	}
	return out, nil
}

// target is the name by which users choose a disk: the id of its device, else that of its drive, else its place.
func target(b qmp.BlockDevice) string {
	path := strings.TrimSuffix(text(b.Qdev), "/virtio-backend")
	if id, ok := strings.CutPrefix(path, "/machine/peripheral/"); ok {
		return id
	}
	if b.Device != "" {
		return b.Device
	}
	return path[strings.LastIndexByte(path, '/')+1:]
}

// encode writes the description into an Offer.
func (g guest) encode() (string, error) {
	b, err := json.Marshal(g)
	return string(b), err
}

// decodeGuest reads it back.
func decodeGuest(o migrate.Offer) (guest, error) {
	var g guest
	if len(o.XML) > maxCookie {
		return g, fmt.Errorf("an offer of %d bytes, more than %d", len(o.XML), maxCookie)
	}
	if err := json.Unmarshal([]byte(o.XML), &g); err != nil {
		return g, fmt.Errorf("the offer is not of a bare QEMU: %w", err)
	}
	return g, nil
}
