package engine

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/libvirthost"
	"github.com/vmmigrate/vmmigrate/migrate/storage"
)

// Connect starts, or reaches, the agent of a host.
type Connect func(ctx context.Context, p migrate.Place) (agent.Agent, error)

// mapDisks puts the disks where the user wants them in the guest's description. A bare QEMU has the disks that it was started
// with.
func (s *session) mapDisks(ctx context.Context) error {
	if len(s.p.Disks) == 0 {
		return nil
	}
	const op = "give the disks another place"
	if err := s.p.CheckDisks(); err != nil {
		return migrate.Fail(op, migrate.SideCoordinator, err, "correct --disk")
	}
	m, ok := s.src.(migrate.DiskMapper)
	if !ok {
		return migrate.Fail(op, migrate.SideDestination, fmt.Errorf("%s has the disks that it was started with: %w", s.dst.URI(), migrate.ErrNotSupported),
			"start the destination's QEMU with the image's path, and leave out --disk")
	}
	p, err := m.MapDisks(ctx, s.job.Domain, s.p)
	if err == nil {
		s.p = p
	}
	return err
}

// makesImages tells whether the destination's images are ours to make: QEMUs that somebody else starts have theirs.
func (s *session) makesImages() bool {
	_, mapper := s.src.(migrate.DiskMapper)
	_, located := s.dst.(migrate.Located)
	return s.p.CopyStorage != migrate.CopyNone && !s.p.Resume && mapper && located
}

// makeMissing makes the images that the destination lacks, by agents that are reached for it, and to write out images. Where there is none it is
// left to libvirt, which makes what a storage pool covers.
func (s *session) makeMissing(ctx context.Context) error {
	if !s.makesImages() || s.connect == nil {
		return nil
	}
	there, err := s.agentAt(ctx, s.dst)
	if err != nil {
		s.job.Sink.Note(fmt.Sprintf("no agent at the destination: libvirt makes the images that its storage pools cover (%v)", err))
		return nil
	}
	s.agents = append(s.agents, there)
	here, herr := s.agentAt(ctx, s.src)
	if herr != nil {
		s.job.Sink.Note(fmt.Sprintf("no agent at the source: new images get the usual options (%v)", herr))
		return s.makeImages(ctx, nil, there)
	}
	s.agents = append(s.agents, here)
	s.flusher = newFlusher(ctx, s, here, there)
	return s.makeImages(ctx, here, there)
}

// agentAt reaches the agent of a host.
func (s *session) agentAt(ctx context.Context, h migrate.Host) (agent.Agent, error) {
	l, ok := h.(migrate.Located)
	if !ok {
		return nil, migrate.ErrNotSupported
	}
	p, err := l.Place(ctx)
	if err != nil {
		return nil, err
	}
	return s.connect(ctx, p)
}

// planned is a disk whose image is to be made.
type planned struct {
	spec       storage.Spec
	filesystem uint64
	free       int64
}

// makeImages makes what the destination lacks of the images that are to be copied. here may be nil. What it makes is written
// down before it is made, and again before it gets its name.
func (s *session) makeImages(ctx context.Context, here, there agent.Images) error {
	plan, err := s.planImages(ctx, here, there)
	if err != nil {
		return err
	}
	if err := enough(plan); err != nil {
		return err
	}
	var made []storage.Made
	for _, n := range plan {
		made = append(made, n.spec.Intended())
	}
	for i, n := range plan {
		if err := s.keep(ctx, made); err != nil {
			return err
		}
		m, err := there.StageImage(ctx, n.spec)
		if errors.Is(err, migrate.ErrNotSupported) && i == 0 {
			s.job.Sink.Note(fmt.Sprintf("the agent at the destination makes no images, libvirt makes those that its storage pools cover (%v)", err))
			return s.keep(ctx, nil)
		}
		if err != nil {
			return migrate.Fail("make the image of disk "+n.spec.Target, migrate.SideDestination, err, "")
		}
		made[i] = m
		if err := s.keep(ctx, made); err != nil {
			return err
		}
		if err := there.PlaceImage(ctx, m); err != nil {
			return migrate.Fail("make the image of disk "+n.spec.Target, migrate.SideDestination, err, "")
		}
		s.made = made
		s.p.ThinDisks = append(s.p.ThinDisks, n.spec.Target)
		s.job.Sink.Note(fmt.Sprintf("disk %s: %s made at the destination (%s, %d bytes)", n.spec.Target, n.spec.Path, n.spec.Format, n.spec.Size))
	}
	return nil
}

func (s *session) keep(ctx context.Context, made []storage.Made) error {
	if s.job.Keep == nil {
		return nil
	}
	return s.job.Keep(ctx, made)
}

// enough makes sure that all images together fit, before the first is made.
func enough(plan []planned) error {
	need := map[uint64]int64{}
	for _, n := range plan {
		sum := need[n.filesystem]
		sum += min(storage.Need(n.spec.Data), math.MaxInt64-sum)
		if need[n.filesystem] = sum; sum > n.free {
			return &migrate.OpError{Op: "make the image of disk " + n.spec.Target, Side: migrate.SideDestination,
				Err: fmt.Errorf("%w for %s: %d bytes are needed on its file system, %d are free", storage.ErrNoRoom, n.spec.Path, sum, n.free),
				Fix: "free some space there, or give the disk another path with --disk"}
		}
	}
	return nil
}

// planImages looks at both ends of each disk.
func (s *session) planImages(ctx context.Context, here, there agent.Images) ([]planned, error) {
	guest, err := s.src.Domain(ctx, s.job.Domain)
	if err != nil {
		return nil, migrate.Fail("look at the guest's disks", migrate.SideSource, err, "")
	}
	places := map[string]migrate.Disk{}
	if s.p.DestinationXML != "" {
		f, err := libvirthost.FactsOf(s.p.DestinationXML)
		if err != nil {
			return nil, migrate.Fail("look at the guest's disks", migrate.SideDestination, err, "correct --xml")
		}
		for _, d := range f.Disks {
			places[d.Target] = d
		}
	}
	var plan []planned
	for _, d := range guest.Disks {
		to, ok := places[d.Target]
		if !ok {
			to = d
		}
		if !s.p.Copies(d) || to.Kind != "file" && to.Kind != "block" {
			continue
		}
		n, err := s.planImage(ctx, here, there, d, to)
		if err != nil {
			return nil, err
		}
		if n != nil {
			plan = append(plan, *n)
		}
	}
	return plan, nil
}

// planImage looks at both ends of one disk; nil if there is nothing to make.
func (s *session) planImage(ctx context.Context, here, there agent.Images, from, to migrate.Disk) (*planned, error) {
	op := "look at the image of disk " + from.Target
	old, err := there.DescribeImage(ctx, storage.Query{Path: to.Path, Format: to.Format})
	if errors.Is(err, storage.ErrNoTool) { // something is there
		s.job.Sink.Note(fmt.Sprintf("disk %s: %s is there and could not be looked at (%v)", from.Target, to.Path, err))
		return nil, nil
	}
	if err == nil && old.InUse {
		err = &migrate.OpError{Op: "copy onto " + to.Path, Side: migrate.SideDestination, Err: storage.ErrInUse,
			Fix: "end what uses it there, or give the disk another path with --disk; a disk that both hosts share is not copied: --migrate-disks"}
	}
	if err != nil {
		return nil, migrate.Fail(op, migrate.SideDestination, err, "")
	}
	source, err := s.sourceImage(ctx, here, from)
	if err != nil {
		return nil, migrate.Fail(op, migrate.SideSource, err, "")
	}
	top, _ := source.Top()
	if at, ok := old.Top(); ok {
		err := fits(from, to, top.VirtualSize, at.VirtualSize)
		if err == nil && to.Discard { // an earlier stay left it, perhaps: what it has where the disk has zeros is given back
			s.p.ThinDisks = append(s.p.ThinDisks, from.Target)
		}
		return nil, err
	}
	spec := storage.Spec{Migration: s.job.ID, Target: from.Target, Path: to.Path, Format: to.Format, Size: top.VirtualSize, Data: min(source.Allocated(), top.VirtualSize)}
	if top.Format == to.Format {
		spec.Like = &top
	}
	if to.Kind == "block" {
		return nil, &migrate.OpError{Op: op, Side: migrate.SideDestination, Err: fmt.Errorf("there is no block device %s", to.Path), Fix: "make the device there, or give the disk another path with --disk"}
	}
	if s.p.CopyStorage == migrate.CopyInc {
		spec.Backing, spec.BackingFormat, spec.Data = top.Backing, top.BackingFormat, min(top.Allocated, top.VirtualSize)
	}
	to.Capacity = spec.Size
	spec.Data = to.Fills(spec.Data)
	return &planned{spec, old.Filesystem, old.Free}, nil
}

// fits tells why what is there cannot take a disk: QEMU copies only onto an image, or a device, of exactly the same size.
func fits(from, to migrate.Disk, want, have int64) error {
	if have == want {
		return nil
	}
	return &migrate.OpError{Op: "copy disk " + from.Target, Side: migrate.SideDestination,
		Err: fmt.Errorf("%s is there and has %d bytes, the guest's disk has %d", to.Path, have, want),
		Fix: "move it away, and a new one is made (a device has to be of that size); or give the disk another path with --disk"}
}

// sourceImage describes what a disk is at the source. Without an agent there the driver's figures have to do.
func (s *session) sourceImage(ctx context.Context, here agent.Images, d migrate.Disk) (storage.Image, error) {
	if here != nil {
		img, err := here.DescribeImage(ctx, storage.Query{Path: d.Path, Format: d.Format})
		if _, ok := img.Top(); err == nil && ok {
			return img, nil
		}
		if s.p.CopyStorage == migrate.CopyInc {
			return img, err
		}
		s.job.Sink.Note(fmt.Sprintf("disk %s: its image's options could not be read at the source (%v)", d.Target, err))
	}
	if d.Capacity <= 0 {
		return storage.Image{}, errors.New("its size is not known")
	}
	if s.p.CopyStorage == migrate.CopyInc {
		return storage.Image{}, fmt.Errorf("the image below it is not known without an agent: %w", migrate.ErrNotSupported)
	}
	used := d.Used
	if used <= 0 {
		used = d.Capacity
	}
	return storage.Image{Layers: []storage.Layer{{Path: d.Path, VirtualSize: d.Capacity, Allocated: used}}}, nil
}

// RemoveImages gives the function that reaches who removes images of a migration that did not land: the destination's agent
// (migrate.Config).
func RemoveImages(connect Connect) func(ctx context.Context, dest migrate.Host) (migrate.ImageRemover, error) {
	return func(ctx context.Context, dest migrate.Host) (migrate.ImageRemover, error) {
		a, err := (&session{connect: connect}).agentAt(ctx, dest)
		if err != nil {
			return nil, migrate.Fail("reach the agent", migrate.SideDestination, err, "")
		}
		return imageRemover{a}, nil
	}
}

// imageRemover is an agent that removes images.
type imageRemover struct{ agent.Agent }

// Remove implements migrate.ImageRemover.
func (r imageRemover) Remove(ctx context.Context, images []storage.Made) error {
	var errs []error
	for _, m := range images {
		errs = append(errs, r.RemoveImage(ctx, m))
	}
	return errors.Join(errs...)
}

// LookAtImages gives the function by which check has the destination's agent look at where disks are to be copied to
// (check.Options). What the agent could not tell of a disk is left out.
func LookAtImages(connect Connect) func(ctx context.Context, at migrate.Place, disks []migrate.Disk) (map[string]migrate.VolumeFacts, error) {
	return func(ctx context.Context, at migrate.Place, disks []migrate.Disk) (out map[string]migrate.VolumeFacts, err error) {
		a, err := connect(ctx, at)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, a.Close()) }()
		out = map[string]migrate.VolumeFacts{}
		for _, d := range disks {
			img, err := a.DescribeImage(ctx, storage.Query{Path: d.Path})
			if err != nil {
				continue
			}
			v := migrate.VolumeFacts{Agent: true, FreeBytes: &img.Free, Filesystem: img.Filesystem, InUse: img.InUse, Exists: img.Kind != storage.KindAbsent}
			if top, ok := img.Top(); ok {
				v.Capacity, v.Format = top.VirtualSize, top.Format
			}
			if d.Format == "raw" { // what a guest wrote may look like a header
				if img, err = a.DescribeImage(ctx, storage.Query{Path: d.Path, Format: d.Format}); err != nil {
					continue
				}
				if top, ok := img.Top(); ok {
					v.Capacity, v.Format = top.VirtualSize, top.Format
				}
			}
			out[d.Target] = v
		}
		return out, nil
	}
}
