package qemuhost

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/vmmigrate/vmmigrate/migrate"
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
	format    string
	file      string
	used      int64
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
	var kvm struct {
		Enabled bool `json:"enabled"`
	}
	if err := h.ask(ctx, "query-kvm", nil, &kvm); err != nil && !refused(err) {
		return err
	}
	g.Accel = "tcg"
	if kvm.Enabled {
		g.Accel = "kvm"
	}
	return nil
}

func (h *Host) describeMemory(ctx context.Context, g *guest) error {
	var size struct {
		Base    int64 `json:"base-memory"`
		Plugged int64 `json:"plugged-memory"`
	}
	if err := h.ask(ctx, "query-memory-size-summary", nil, &size); err != nil {
		return err
	}
	g.Memory = size.Base + size.Plugged
	var err error
	if g.memoryID, err = h.qomString(ctx, "/machine", "memory-backend"); err != nil {
		return err
	}
	var blocks struct {
		Text string `json:"human-readable-text"`
	}
	if err := h.ask(ctx, "x-query-ramblock", nil, &blocks); err != nil && !refused(err) {
		return err
	}
	g.RAM = parseRAMBlocks(blocks.Text)
	return nil
}

func (h *Host) describeCPU(ctx context.Context, g *guest) error {
	var cpus []struct {
		Path string `json:"qom-path"`
	}
	if err := h.ask(ctx, "query-cpus-fast", nil, &cpus); err != nil {
		return err
	}
	g.VCPUs = len(cpus)
	if len(cpus) == 0 {
		return nil
	}
	var err error
	g.CPU, err = h.qomString(ctx, cpus[0].Path, "type")
	return err
}

func (h *Host) describeDevices(ctx context.Context, g *guest) error {
	for _, dir := range []string{"/machine/peripheral", "/machine/peripheral-anon"} {
		ps, err := h.qomList(ctx, dir)
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

// parseRAMBlocks reads the table of x-query-ramblock, whose form QEMU does not promise: what does not parse is left out.
func parseRAMBlocks(text string) []ramBlock {
	var out []ramBlock
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 7 { // an unnamed block: not part of a migration
			continue
		}
		if len(f) < 8 {
			continue
		}
		var size, page int64
		if _, err := fmt.Sscanf(f[5], "0x%x", &size); err != nil {
			continue
		}
		if _, err := fmt.Sscan(f[1], &page); err != nil {
			continue
		}
		out = append(out, ramBlock{Name: f[0], Size: size, pageSize: page * unit(f[2])})
	}
	return out
}

func unit(name string) int64 {
	switch name {
	case "KiB":
		return 1 << 10
	case "MiB":
		return 1 << 20
	case "GiB":
		return 1 << 30
	}
	return 0
}

// blockInfo is an entry of query-block.
type blockInfo struct {
	Device    string `json:"device"`
	QDev      string `json:"qdev"`
	Removable bool   `json:"removable"`
	Inserted  *struct {
		Node     string `json:"node-name"`
		Driver   string `json:"drv"`
		File     string `json:"file"`
		ReadOnly bool   `json:"ro"`
		Image    struct {
			Size int64 `json:"virtual-size"`
			Used int64 `json:"actual-size"`
		} `json:"image"`
	} `json:"inserted"`
}

// listDisks reads the block devices that guest devices are attached to.
func (h *Host) listDisks(ctx context.Context) ([]disk, error) {
	var blocks []blockInfo
	if err := h.ask(ctx, "query-block", nil, &blocks); err != nil {
		return nil, err
	}
	var out []disk
	for _, b := range blocks {
		if b.QDev == "" {
			continue // a drive that no device uses
		}
		d := disk{Target: b.target(), Removable: b.Removable, ReadOnly: true}
		if in := b.Inserted; in != nil {
			d.Node, d.ReadOnly, d.format, d.file = in.Node, in.ReadOnly, in.Driver, in.File
			d.Capacity, d.used = in.Image.Size, in.Image.Used
		}
		out = append(out, d)
	}
	return out, nil
}

// target is the name by which users choose a disk: the id of its device, else that of its drive, else its place.
func (b blockInfo) target() string {
	path := strings.TrimSuffix(b.QDev, "/virtio-backend")
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
	if err := json.Unmarshal([]byte(o.XML), &g); err != nil {
		return g, fmt.Errorf("the offer is not of a bare QEMU: %w", err)
	}
	return g, nil
}
