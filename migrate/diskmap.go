package migrate

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vmmigrate/vmmigrate/migrate/storage"
)

// DiskMap gives a disk another place, or another format, at the destination.
type DiskMap struct {
	// Target is the disk as the guest's description has it: vda.
	Target string `json:"target"`
	// Path is the image's at the destination, or a block device's.
	Path string `json:"path"`
	// Format is qcow2 or raw; empty is the disk's own.
	Format string `json:"format,omitempty"`
}

// Device tells that the path is a block device's.
func (m DiskMap) Device() bool {
	return strings.HasPrefix(m.Path, "/dev/") && !strings.HasPrefix(m.Path, "/dev/shm/")
}

// CheckDisks tells what of Disks makes no sense, whatever the guest.
func (p Params) CheckDisks() error {
	if len(p.Disks) > 0 && p.CopyStorage == CopyNone {
		return errors.New("only a disk that is copied can have another place: --copy-storage-all")
	}
	for i, m := range p.Disks {
		if err := storage.CheckPath(m.Path); err != nil {
			return fmt.Errorf("disk %s, %q: %w", m.Target, m.Path, err)
		}
		if m.Format != "" && m.Format != "qcow2" && m.Format != "raw" {
			return fmt.Errorf("disk %s: format %q is not qcow2 or raw", m.Target, m.Format)
		}
		if len(p.MigrateDisks) > 0 && !slices.Contains(p.MigrateDisks, m.Target) {
			return fmt.Errorf("disk %s is not among those that are moved: add it to --migrate-disks", m.Target)
		}
		for _, o := range p.Disks[:i] {
			switch {
			case o.Target == m.Target:
				return fmt.Errorf("disk %s is given twice", m.Target)
			case o.Path == m.Path:
				return fmt.Errorf("disks %s and %s cannot both be %s", o.Target, m.Target, m.Path)
			}
		}
	}
	return nil
}

// MapDisk gives a disk as it is to be at the destination.
func (p Params) MapDisk(d Disk) Disk {
	for _, m := range p.Disks {
		if m.Target != d.Target {
			continue
		}
		d.Path, d.Kind = m.Path, "file"
		if m.Device() {
			d.Kind = "block"
		}
		if m.Format != "" {
			d.Format = m.Format
		}
	}
	return d
}

// Fills is how many bytes of a new image are written, for a disk as it is to be at the destination that holds data bytes.
func (d Disk) Fills(data int64) int64 {
	if d.Format == "raw" && !d.Discard {
		return max(data, d.Capacity)
	}
	return data
}

// Moves is how much of the disk there is to move, as far as can be told before: what its image holds, or if that is not known,
// all of its size.
func (d Disk) Moves() int64 {
	if d.Used > 0 {
		return d.Used
	}
	return max(d.Capacity, 0)
}

// Copies tells whether the disk travels with the guest, as libvirt chooses: the named ones, else all that can be written and
// are not shared between guests.
func (p Params) Copies(d Disk) bool {
	if p.CopyStorage == CopyNone || d.CDROM || d.Kind == "network" || d.Path == "" {
		return false
	}
	if len(p.MigrateDisks) > 0 {
		return slices.Contains(p.MigrateDisks, d.Target)
	}
	return !d.ReadOnly && !d.Shareable
}

// DisksByAgents tells that under the nbd engine agents copy the disks before the guest goes: what is there already can be
// used, and what travels is encrypted. Otherwise the hosts' drivers do, by QEMU's own connections in the clear.
func (p Params) DisksByAgents() bool {
	return p.CopyStorage == CopyAll && (p.Reuse || p.TLS)
}

// DiskCap is the cap of all copies of disks together, in bytes a second; 0 is none.
func (p Params) DiskCap() int64 {
	if p.BandwidthDisk > 0 {
		return p.BandwidthDisk
	}
	return max(p.Bandwidth, 0)
}
