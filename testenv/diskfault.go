package testenv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vmmigrate/vmmigrate/qmp"
)

// Faults of disks: a file system that becomes full, and an image that cannot be read at one place.

// MountSmall mounts a file system of so many bytes on a folder of the host, which is made if
// there is none. Nobody but the host sees it, and it goes with the host.
func (h *Host) MountSmall(ctx context.Context, dir string, size int64) error {
	if !filepath.IsAbs(dir) || size <= 0 {
		return fmt.Errorf("mount %d bytes on %q: want an absolute path and a size", size, dir)
	}
	if _, err := h.Output(ctx, "mkdir", "-p", dir); err != nil {
		return err
	}
	_, err := h.Output(ctx, "mount", "-t", "tmpfs", "-o", "mode=0755,size="+strconv.FormatInt(size, 10), "vmmigrate-lab", dir)
	return err
}

// Unmount undoes MountSmall.
func (h *Host) Unmount(ctx context.Context, dir string) error {
	_, err := h.Output(ctx, "umount", dir)
	return err
}

// brokenNode begins the name of the block node that fails.
const brokenNode = "vml-broken-"

// blockNode is what is of interest here of a node of QEMU's block graph.
type blockNode struct {
	Name   string `json:"node-name"`
	Driver string `json:"drv"`
	File   string `json:"file"`
}

// BreakDisk makes the guest's QEMU on the host fail to read one of its disks, such as "vda",
// around that offset, from now on until MendDisk: a cluster that has data. The image has to be
// in qcow2, as the lab made it, and the guest needs a monitor of its own.
func (g *Guest) BreakDisk(ctx context.Context, h *Host, disk string, offset int64) error {
	err := g.withDiskNodes(ctx, h, disk, func(c *qmp.Client, path, format, file string) error {
		at, err := imageOffset(ctx, path, offset)
		if err != nil {
			return err
		}
		broken := brokenNode + disk
		const sector = 512
		err = c.Execute(ctx, "blockdev-add", map[string]any{
			"driver": "blkdebug", "node-name": broken, "image": file, "discard": "unmap",
			"inject-error": []any{map[string]any{"event": "none", "iotype": "read", "errno": 5, "sector": at / sector, "once": false}},
		}, nil)
		if err != nil {
			return err
		}
		return reopen(ctx, c, format, broken)
	})
	if err != nil {
		return fmt.Errorf("break disk %s of guest %s: %w", disk, g.Name(), err)
	}
	return nil
}

// MendDisk undoes BreakDisk.
func (g *Guest) MendDisk(ctx context.Context, h *Host, disk string) error {
	err := g.withDiskNodes(ctx, h, disk, func(c *qmp.Client, _, format, file string) error {
		if err := reopen(ctx, c, format, file); err != nil {
			return err
		}
		return c.Execute(ctx, "blockdev-del", map[string]any{"node-name": brokenNode + disk}, nil)
	})
	if err != nil {
		return fmt.Errorf("mend disk %s of guest %s: %w", disk, g.Name(), err)
	}
	return nil
}

// reopen puts another node below a qcow2 image.
func reopen(ctx context.Context, c *qmp.Client, format, file string) error {
	return c.Execute(ctx, "blockdev-reopen", map[string]any{"options": []any{
		map[string]any{"driver": FormatQCOW2, "node-name": format, "file": file, "discard": "unmap"},
	}}, nil)
}

// withDiskNodes finds the nodes of a disk's image and of the file below it.
func (g *Guest) withDiskNodes(ctx context.Context, h *Host, disk string, fn func(c *qmp.Client, path, format, file string) error) error {
	i := -1
	for n := range g.config.Disks {
		if diskName(n) == disk {
			i = n
		}
	}
	switch {
	case i < 0:
		return errors.New("the guest has no such disk")
	case g.config.Disks[i].Format != FormatQCOW2:
		return errors.New("only an image in qcow2 can be broken")
	}
	path := g.Image(h, i)
	return g.withMonitor(ctx, h, func(c *qmp.Client) error {
		var nodes []blockNode
		if err := c.Execute(ctx, "query-named-block-nodes", map[string]any{"flat": true}, &nodes); err != nil {
			return err
		}
		find := func(driver string) string {
			for _, n := range nodes {
				// Above a broken node there is JSON with the path in it.
				if name := filepath.Base(path); n.Driver == driver && (filepath.Base(n.File) == name || strings.Contains(n.File, "/"+name+`"`)) {
					return n.Name
				}
			}
			return ""
		}
		format, file := find(FormatQCOW2), find("file")
		if format == "" || file == "" {
			return fmt.Errorf("QEMU has no image %s open: %+v", filepath.Base(path), nodes)
		}
		return fn(c, path, format, file)
	})
}

// Ask runs a command of the guest's QEMU on the host, beside whoever migrates it. The guest needs a monitor of its own, as all of
// a bare lab have.
func (g *Guest) Ask(ctx context.Context, h *Host, command string, result any) error {
	return g.withMonitor(ctx, h, func(c *qmp.Client) error { return c.Execute(ctx, command, nil, result) })
}

// withMonitor runs fn on a monitor of the guest's QEMU.
func (g *Guest) withMonitor(ctx context.Context, h *Host, fn func(*qmp.Client) error) error {
	if g.lab.state.Plan.Bare {
		return g.withQEMU(ctx, h, fn)
	}
	if !g.config.Monitor {
		return errors.New("the guest has no monitor of its own: start it with one")
	}
	c, err := qmp.Dial(ctx, "unix", g.Monitor(h))
	if err != nil {
		return err
	}
	defer c.Close()
	return fn(c)
}

// imageOffset is where a qcow2 image has the data of an offset of its disk.
func imageOffset(ctx context.Context, path string, offset int64) (int64, error) {
	out, err := exec.CommandContext(ctx, "qemu-img", "map", "-U", "--output=json", path).Output()
	if err != nil {
		return 0, fmt.Errorf("qemu-img map: %w", err)
	}
	var extents []struct {
		Start, Length int64
		Offset        *int64
		Data          bool
	}
	if err := json.Unmarshal(out, &extents); err != nil {
		return 0, fmt.Errorf("qemu-img map: %w", err)
	}
	for _, e := range extents {
		if e.Start <= offset && offset < e.Start+e.Length && e.Data && e.Offset != nil {
			return *e.Offset + offset - e.Start, nil
		}
	}
	return 0, fmt.Errorf("nothing is stored at offset %d", offset)
}
