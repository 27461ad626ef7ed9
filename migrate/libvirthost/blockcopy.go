package libvirthost

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"time"

	"github.com/digitalocean/go-libvirt"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// PutOverlays has nothing to do: the guest's description said it.
func (h *Host) PutOverlays(context.Context, string, []migrate.Overlay) error { return nil }

// Unstick implements migrate.Overlayer.
func (h *Host) Unstick(ctx context.Context, name string) (was bool, err error) {
	d, err := h.lookup(ctx, name)
	if err != nil {
		return false, err
	}
	s, err := h.glance(ctx, d)
	if err != nil || s.state != libvirt.DomainPaused || libvirt.DomainPausedReason(s.reason) != libvirt.DomainPausedIoerror {
		return false, err
	}
	_, err = do(ctx, h.c, func(l *libvirt.Libvirt) (struct{}, error) { return struct{}{}, l.DomainResume(d) })
	return true, err
}

// foldPoll is the time between two looks at a copy.
const foldPoll = 200 * time.Millisecond

// Fold implements migrate.Overlayer by libvirt's block copy.
func (h *Host) Fold(ctx context.Context, name string, o migrate.Overlay, progress func(done, total int64)) error {
	d, err := h.lookup(ctx, name)
	if err == nil {
		err = h.fold(ctx, d, o, progress)
	}
	return migrate.Fail("fold disk "+o.Target, migrate.SideDestination, err, "the guest runs on meanwhile; vmmigrate recover goes on with it")
}

func (h *Host) fold(ctx context.Context, d libvirt.Domain, o migrate.Overlay, progress func(done, total int64)) error {
	begun := false
	tick := time.NewTicker(foldPoll)
	defer tick.Stop()
	for {
		at, err := h.copyAt(ctx, d, o.Target)
		if err != nil {
			return err
		}
		switch {
		case at.on(o.Final.Path) && at.Mirror == nil:
			return nil
		case at.Mirror == nil && begun:
			return fmt.Errorf("the copy ended before its time: is the image's file system full, or was it ended by somebody else? libvirt's log of %s says more", d.Name)
		case at.Mirror == nil:
			begun, err = true, h.startFold(ctx, d, o)
		case at.Mirror.Ready == "yes":
			begun = true
			_, err = do(ctx, h.c, func(l *libvirt.Libvirt) (struct{}, error) {
				return struct{}{}, l.DomainBlockJobAbort(d, o.Target, libvirt.DomainBlockJobAbortPivot)
			})
		default:
			begun = true
			err = h.foldProgress(ctx, d, o.Target, progress)
		}
		if err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// foldGrain is by how many bytes is copied at least: what a raw image has holes for is not filled up around data.
const foldGrain = 4096

// startFold begins to copy. Writes of the guest go to both from now on, so that it ends.
func (h *Host) startFold(ctx context.Context, d libvirt.Domain, o migrate.Overlay) error {
	kind, attr := "file", "file"
	if o.Final.Kind == "block" {
		kind, attr = "block", "dev"
	}
	to := "<disk type='" + kind + "'><driver name='qemu' type='" + escaped(o.Final.Format) + "'/><source " + attr + "='" + escaped(o.Final.Path) + "'/></disk>"
	grain := []libvirt.TypedParam{{Field: "granularity", Value: *libvirt.NewTypedParamValueUint(foldGrain)}}
	flags := libvirt.DomainBlockCopyReuseExt | libvirt.DomainBlockCopyTransientJob | libvirt.DomainBlockCopySynchronousWrites
	_, err := do(ctx, h.c, func(l *libvirt.Libvirt) (struct{}, error) {
		return struct{}{}, l.DomainBlockCopy(d, o.Target, to, grain, flags)
	})
	return err
}

func (h *Host) foldProgress(ctx context.Context, d libvirt.Domain, target string, progress func(done, total int64)) error {
	type info struct{ done, total uint64 }
	at, err := look(ctx, h.c, func(l *libvirt.Libvirt) (info, error) {
		_, _, _, cur, end, err := l.DomainGetBlockJobInfo(d, target, 0)
		return info{cur, end}, err
	})
	if err == nil {
		progress(int64(at.done), int64(at.total))
	}
	return err
}

// diskCopy is where a disk is, and whether it is being copied.
type diskCopy struct {
	Target struct {
		Dev string `xml:"dev,attr"`
	} `xml:"target"`
	Source struct {
		File string `xml:"file,attr"`
		Dev  string `xml:"dev,attr"`
	} `xml:"source"`
	Mirror *struct {
		Ready string `xml:"ready,attr"`
	} `xml:"mirror"`
}

func (c diskCopy) on(path string) bool { return c.Source.File == path || c.Source.Dev == path }

// copyAt reads it from the running guest's description.
func (h *Host) copyAt(ctx context.Context, d libvirt.Domain, target string) (diskCopy, error) {
	text, err := look(ctx, h.c, func(l *libvirt.Libvirt) (string, error) { return l.DomainGetXMLDesc(d, 0) })
	if err != nil {
		return diskCopy{}, err
	}
	var dom struct {
		ID    string     `xml:"id,attr"` // of running domains only
		Disks []diskCopy `xml:"devices>disk"`
	}
	if err := xml.Unmarshal([]byte(text), &dom); err != nil {
		return diskCopy{}, fmt.Errorf("read the domain's XML: %w", err)
	}
	if dom.ID == "" { // its definition names the final images, and they are not whole
		return diskCopy{}, fmt.Errorf("%w: the guest has ended on %s before its disks were all there", migrate.ErrNoDomain, h.t.raw)
	}
	for _, c := range dom.Disks {
		if c.Target.Dev == target {
			return c, nil
		}
	}
	return diskCopy{}, errors.New("the guest has no such disk any more")
}
