package testenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/digitalocean/go-libvirt"

	"github.com/vmmigrate/vmmigrate/testenv/guest/param"
	"github.com/vmmigrate/vmmigrate/testenv/oracle"
)

// ParseDisk reads a disk as commands tell it: SIZE[,format=raw|qcow2][,used=SIZE].
func ParseDisk(text string) (Disk, error) {
	size, rest, more := strings.Cut(text, ",")
	n, err := ParseSize(size)
	d := Disk{Size: n}
	for more && err == nil {
		var pair string
		pair, rest, more = strings.Cut(rest, ",")
		key, value, _ := strings.Cut(pair, "=")
		switch key {
		case "format":
			d.Format = value
			err = oneOf("disk format", value, FormatRaw, FormatQCOW2)
		case "used":
			d.Used, err = ParseSize(value)
		default:
			err = fmt.Errorf("unknown key %q: a disk takes format and used", key)
		}
	}
	if err != nil {
		return Disk{}, fmt.Errorf("disk %q: %w", text, err)
	}
	return d, nil
}

// diskName is the guest's name for its disk number i.
func diskName(i int) string { return fmt.Sprintf("vd%c", 'a'+i) }

// fillDisks makes Disks of Disk, and each format known.
func (c *GuestConfig) fillDisks() error {
	if c.Disk != 0 {
		if len(c.Disks) > 0 {
			return errors.New("Disk and Disks are both given")
		}
		c.Disks = []Disk{{Size: c.Disk}}
	}
	c.Disks = append([]Disk(nil), c.Disks...) // not the caller's
	for i := range c.Disks {
		if c.Disks[i].Format == "" {
			c.Disks[i].Format = c.DiskFormat
		}
	}
	return nil
}

func (c GuestConfig) checkDisks() error {
	errs := []error{when(len(c.Disks) > param.MaxDisks, "%d disks; it can have up to %d", len(c.Disks), param.MaxDisks)}
	for i, d := range c.Disks {
		errs = append(errs, oneOf("disk format", d.Format, FormatRaw, FormatQCOW2),
			when(d.Size <= 0 || d.Size%mib != 0, "disk size %d is not a whole number of MiB", d.Size),
			when(d.Used < 0 || d.Used > d.Size || d.Used%mib != 0, "%d bytes used of disk %s: want whole MiB, and no more than it has", d.Used, diskName(i)))
	}
	return errors.Join(errs...)
}

// used is what the guest has to know of its disks; nil where it finds out by itself.
func (c GuestConfig) used() []int64 {
	var used []int64
	known := true
	for _, d := range c.Disks {
		used = append(used, d.Used)
		known = known && d.Used == 0
	}
	if known && len(used) < 2 {
		return nil
	}
	return used
}

// imageFile is the name of an image. No guest's name has an @.
func (c GuestConfig) imageFile(i int) string {
	name := c.Name
	if i > 0 {
		name += "@" + diskName(i)
	}
	if c.Disks[i].Format == FormatQCOW2 {
		return name + ".qcow2"
	}
	return name + ".img"
}

// Image is where the lab puts disk number i of the guest on the host, as the machine sees it.
func (g *Guest) Image(h *Host, i int) string {
	return filepath.Join(h.ImagesDir(), g.config.imageFile(i))
}

// makeDisks makes the images of a guest that is to start on the host.
func (g *Guest) makeDisks(ctx context.Context, h *Host) error {
	for i, d := range g.config.Disks {
		if err := makeImage(ctx, g.Image(h, i), d, g.config.Seed, i); err != nil {
			return fmt.Errorf("make disk %s: %w", diskName(i), err)
		}
	}
	return nil
}

// emptyDisks makes images for a guest that is to arrive at the host.
func (g *Guest) emptyDisks(ctx context.Context, h *Host) error {
	for i, d := range g.config.Disks {
		d.Used = 0
		if err := makeImage(ctx, g.Image(h, i), d, 0, i); err != nil {
			return fmt.Errorf("make disk %s at host %s: %w", diskName(i), h.Name(), err)
		}
	}
	return nil
}

// ForgetDisks removes what a stay of the guest has left of its disks on a host where it is not
// any more.
func (g *Guest) ForgetDisks(ctx context.Context, h *Host) error {
	if at, err := g.Host(ctx); err != nil || at.Name() == h.Name() || len(g.config.Disks) == 0 {
		return err // it may yet be there
	}
	if err := g.removeDisks(h); err != nil || g.lab.state.Plan.Bare {
		return err
	}
	// The host's storage pool still has them.
	return h.withLibvirt(ctx, func(l *libvirt.Libvirt) error {
		p, err := l.StoragePoolLookupByName("default")
		if err != nil {
			return err
		}
		return l.StoragePoolRefresh(p, 0)
	})
}

// removeDisks removes what images the lab has made on the host.
func (g *Guest) removeDisks(h *Host) error {
	var errs []error
	for i := range g.config.Disks {
		if err := os.Remove(g.Image(h, i)); !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// makeImage makes disk number n of a guest, in place of what is there.
func makeImage(ctx context.Context, path string, d Disk, seed uint64, n int) error {
	if d.Used == 0 {
		return qemuImg(ctx, "create", "-q", "-f", d.Format, path, strconv.FormatInt(d.Size, 10))
	}
	raw := path
	if d.Format != FormatRaw {
		raw += ".fill"
		defer os.Remove(raw)
	}
	if err := fillFile(raw, d, seed, n); err != nil || raw == path {
		return err
	}
	return qemuImg(ctx, "convert", "-q", "-f", "raw", "-O", d.Format, raw, path)
}

// fillFile makes a sparse file with the contents of a disk.
func fillFile(path string, d Disk, seed uint64, n int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	err = f.Truncate(d.Size)
	if err == nil {
		err = oracle.FillDisk(f, d.Size, d.Used, seed, n)
	}
	return errors.Join(err, f.Close())
}

func qemuImg(ctx context.Context, args ...string) error {
	if out, err := exec.CommandContext(ctx, "qemu-img", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("qemu-img %s: %w: %s", args[0], err, out)
	}
	return nil
}
