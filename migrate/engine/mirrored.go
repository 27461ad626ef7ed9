package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/libvirthost"
	"github.com/vmmigrate/vmmigrate/migrate/storage"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// mirrored copies a guest's disks by agents before it goes, so that what the destination holds already need not be sent
// (Params.Reuse), or so that it travels encrypted (Params.TLS):
//
//	open     the source's QEMU mirrors what the guest writes from now on, and nothing else, into the destination's image
//	fetch    the destination's agent brings the rest of the image in line, by checksums
//	block    from now on the guest's writes wait for the destination: both are the same at each moment
//	settle   the guest stands still, the image is let go of
//
// It is part of a session of the nbd engine, and used by it only.
type mirrored struct {
	s      *nbdSession
	disks  []mirroredDisk
	mon    qmp.Executor
	source agent.DiskSource
	dest   agent.DiskDest
	opened bool // QEMU was told something
}

// mirroredDisk is one of its disks.
type mirroredDisk struct {
	from, to migrate.Disk
	size     int64
	made     bool   // its image is new
	node     string // of the source's QEMU
}

func (d mirroredDisk) name(kind string) string {
	n := migrate.MirrorPrefix + kind + "-" + plain(d.from.Target)
	return n[:min(len(n), 31)] // QEMU's limit
}

// newMirrored is for a session whose parameters ask for it; nil for others.
func newMirrored(s *nbdSession) *mirrored {
	if !s.job.Params.DisksByAgents() || s.p.Resume {
		return nil
	}
	return &mirrored{s: s}
}

// without is how to leave the copying to QEMU.
func (m *mirrored) without() string {
	if m.s.job.Params.TLS {
		return "use --engine native, or leave out --tls"
	}
	return "leave out --reuse"
}

// plan finds out what the disks are and where they go. The images are there.
func (m *mirrored) plan(ctx context.Context) error {
	s := m.s
	guest, err := s.src.Domain(ctx, s.job.Domain)
	if err != nil {
		return migrate.Fail("look at the guest's disks", migrate.SideSource, err, "")
	}
	disks := guest.Disks
	if _, mapper := s.src.(migrate.DiskMapper); !mapper { // a QEMU that its owner started has its own
		var d migrate.DomainFacts
		d, err = s.dst.Domain(ctx, s.destName())
		disks = d.Disks
	} else if s.p.DestinationXML != "" {
		var f migrate.DomainFacts
		f, err = libvirthost.FactsOf(s.p.DestinationXML)
		disks = f.Disks
	}
	if err != nil {
		return migrate.Fail("look at the guest's disks", migrate.SideDestination, err, "")
	}
	for _, d := range guest.Disks {
		if !s.job.Params.Copies(d) {
			continue
		}
		i := slices.IndexFunc(disks, func(o migrate.Disk) bool { return o.Target == d.Target })
		if i < 0 || disks[i].Kind != "file" && disks[i].Kind != "block" {
			return migrate.Fail("look at disk "+d.Target, migrate.SideDestination, fmt.Errorf("it has no image of its own there: %w", migrate.ErrNotSupported), m.without())
		}
		if d.Capacity <= 0 {
			return migrate.Fail("look at disk "+d.Target, migrate.SideSource, errors.New("its size is not known"), m.without())
		}
		made := slices.ContainsFunc(s.made, func(m storage.Made) bool { return m.Target == d.Target })
		m.disks = append(m.disks, mirroredDisk{from: d, to: s.job.Params.MapDisk(disks[i]), size: d.Capacity, made: made})
	}
	return nil
}

// keep leaves images that were made for this migration where they are if it fails, with Params.Reuse: the next try goes on with
// what they hold.
func (m *mirrored) keep(ctx context.Context) error {
	if len(m.s.made) == 0 || !m.s.job.Params.Reuse {
		return nil
	}
	return m.s.keep(ctx, nil)
}

// open opens both agents' ends and has the source's QEMU mirror.
func (m *mirrored) open(ctx context.Context, e ends) error {
	if len(m.disks) == 0 {
		return nil
	}
	var err error
	if m.mon, err = m.s.from.Monitor(ctx, m.s.job.Domain); err != nil {
		return migrate.Fail("ask the source's QEMU", migrate.SideSource, err, m.without())
	}
	m.opened = true
	if err := migrate.DropMirrors(ctx, m.mon); err != nil {
		return migrate.Fail("remove what an earlier migration left in the source's QEMU", migrate.SideSource, err, "")
	}
	live := path.Join(e.src.SocketDir, "vmmigrate-"+m.s.job.ID+".live")
	if err := m.export(ctx, live); err != nil {
		return migrate.Fail("let the source's QEMU show its disks", migrate.SideSource, err, "QEMU has one NBD server: end any other use of it, or "+m.without())
	}
	if err := m.openEnds(ctx, e, live); err != nil {
		return err
	}
	for _, d := range m.disks {
		if err := m.mirror(ctx, d, m.socket(e, d)); err != nil {
			return migrate.Fail("mirror disk "+d.from.Target, migrate.SideSource, err, "")
		}
	}
	return nil
}

func (m *mirrored) socket(e ends, d mirroredDisk) string {
	return path.Join(e.src.SocketDir, "vmmigrate-"+m.s.job.ID+"-"+plain(d.from.Target)+".mir")
}

// export has the source's QEMU serve its disks for reading.
func (m *mirrored) export(ctx context.Context, socket string) error {
	blocks, err := qmp.QueryBlock(ctx, m.mon)
	if err != nil {
		return err
	}
	if err := qmp.NBDServerStart(ctx, m.mon, qmp.NBDServerArgs{Addr: qmp.SocketAddress{Type: "unix", Path: socket}}); err != nil {
		return err
	}
	for i := range m.disks {
		d := &m.disks[i]
		for _, b := range blocks {
			if b.Inserted != nil && b.Inserted.Image.Filename == d.from.Path && b.Inserted.NodeName != nil {
				d.node = *b.Inserted.NodeName
			}
		}
		if d.node == "" {
			return fmt.Errorf("QEMU does not tell which of its nodes is %s", d.from.Path)
		}
		if err := qmp.BlockExportAdd(ctx, m.mon, qmp.NBDExport{ID: d.name("live"), NodeName: d.node, Name: d.from.Target}); err != nil {
			return err
		}
	}
	return nil
}

func (m *mirrored) openEnds(ctx context.Context, e ends, live string) error {
	s := m.s
	host, err := s.destAddress(ctx, e.dst)
	if err != nil {
		return err
	}
	to := agent.DiskDestSpec{Migration: s.job.ID, Mode: agent.DisksMirror, Guest: s.destName(), Bandwidth: s.job.Params.DiskCap(), Link: s.listenLink(e.src, e.dst, host)}
	from := agent.DiskSourceSpec{Migration: s.job.ID, Mode: agent.DisksMirror}
	for _, d := range m.disks {
		to.Disks = append(to.Disks, agent.DestDisk{Target: d.from.Target, Size: d.size, Path: d.to.Path, Format: d.to.Format, Reuse: !d.made})
		from.Disks = append(from.Disks, agent.SourceDisk{Target: d.from.Target, Path: d.from.Path, Format: d.from.Format, Size: d.size, Live: live, Mirror: m.socket(e, d)})
	}
	to.Link.Token = rand.Text()
	if !s.job.Params.PlainData {
		to.Link.Peer, from.Link.Peer = e.srcID.Certificate, e.dstID.Certificate
	}
	ctx, stop := s.soon(ctx)
	defer stop()
	if m.dest, err = s.dstAgent.OpenDiskDest(ctx, to); err != nil {
		return migrate.Fail("open the disks' images", migrate.SideDestination, lost(ctx, err), "")
	}
	_, port, err := net.SplitHostPort(m.dest.Addr())
	if err != nil {
		return err
	}
	from.Link.Addr, from.Link.Token = net.JoinHostPort(host, port), to.Link.Token
	m.source, err = s.srcAgent.OpenDiskSource(ctx, from)
	return migrate.Fail("serve the disks", migrate.SideSource, lost(ctx, err), "")
}

// mirror begins to mirror one disk: only what is written from now on.
func (m *mirrored) mirror(ctx context.Context, d mirroredDisk, socket string) error {
	err := qmp.BlockdevAdd(ctx, m.mon, qmp.NBDNode{NodeName: d.name("to"), Server: qmp.SocketAddress{Type: "unix", Path: socket}, Export: d.from.Target, Unmap: true})
	if err != nil {
		return err
	}
	return qmp.BlockdevMirror(ctx, m.mon, qmp.MirrorArgs{JobID: d.name("job"), Device: d.node, Target: d.name("to"), Sync: qmp.SyncNone, AutoDismiss: new(false),
		Granularity: new(uint32(4 << 10))}) // of less than QEMU's own choice, a raw image stays as sparse as it was
}

// fetch brings the rest in line. A link that breaks ends it: what is there is found again by the next try.
func (m *mirrored) fetch(ctx context.Context) error {
	if m.dest == nil {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	m.s.onCancel(func() { cancel(migrate.ErrCancelled) })
	ctx, dog, stop := guard(ctx, 30*time.Second+capped(m.s.job.Params.DiskCap()), "nothing of the disks moved")
	defer stop()
	p, err := m.dest.Fetch(ctx, func(p agent.Progress) {
		dog.moved(p)
		tellDisks(m.s.job.Sink, migrate.WayAgents, p, p.Remaining, false)
	})
	if err != nil {
		if errors.Is(context.Cause(ctx), migrate.ErrCancelled) {
			err = fmt.Errorf("%w: %w", migrate.ErrCancelled, err)
		}
		return migrate.Fail("copy the disks", migrate.SideDestination, lost(ctx, err), "")
	}
	tellDisks(m.s.job.Sink, migrate.WayAgents, p, 0, true)
	for _, d := range p.Disks {
		m.s.job.Sink.Note(fmt.Sprintf("disk %s: %d MiB of %d were there already, %d fetched", d.Target, d.Reused>>20, d.Data>>20, d.Fetched>>20))
	}
	return nil
}

// block has the guest's writes wait for the destination, and returns when nothing is left that does not.
func (m *mirrored) block(ctx context.Context) error {
	const op = "have the guest's writes wait for the destination"
	if m.dest == nil {
		return nil
	}
	for _, d := range m.disks {
		if err := qmp.BlockJobChange(ctx, m.mon, d.name("job"), qmp.CopyWriteBlocking); err != nil {
			return migrate.Fail(op, migrate.SideSource, err, "this takes QEMU 8.2 at the source; "+m.without())
		}
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	ctx, stop := context.WithTimeout(ctx, m.s.switchLimit)
	defer stop()
	for {
		synced, err := m.synced(ctx)
		if err != nil || synced {
			return migrate.Fail(op, migrate.SideSource, err, "")
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return migrate.Fail(op, migrate.SideSource, context.Cause(ctx), "")
		}
	}
}

// synced tells whether the destination has every write that was acknowledged.
func (m *mirrored) synced(ctx context.Context) (bool, error) {
	jobs, err := qmp.QueryBlockJobs(ctx, m.mon)
	if err != nil {
		return false, err
	}
	n := 0
	for _, j := range jobs {
		if !strings.HasPrefix(j.Device, migrate.MirrorPrefix) {
			continue
		}
		if j.Error != nil || j.Status == qmp.JobConcluded {
			return false, fmt.Errorf("the mirror of a disk ended: %s", text(j.Error))
		}
		if j.ActivelySynced != nil && *j.ActivelySynced {
			n++
		}
	}
	return n == len(m.disks), nil
}

func text(s *string) string {
	if s == nil {
		return "QEMU does not say why"
	}
	return *s
}

// settle lets go of the images, with the guest at a standstill.
func (m *mirrored) settle(ctx context.Context) error {
	if m.dest == nil {
		return nil
	}
	ctx, stop := m.s.soon(ctx)
	defer stop()
	return migrate.Fail("settle the disks", migrate.SideDestination, lost(ctx, m.dest.Settle(ctx)), "")
}

// close lets the agents go.
func (m *mirrored) close(ctx context.Context, how agent.DiskClosing) error {
	var errs []error
	if m.dest != nil {
		errs = append(errs, m.dest.Close(ctx, how))
	}
	if m.source != nil {
		errs = append(errs, m.source.Close(ctx))
	}
	return errors.Join(errs...)
}

// undo takes everything out of the source's QEMU, too.
func (m *mirrored) undo(ctx context.Context) error {
	if !m.opened {
		return nil
	}
	err := migrate.DropMirrors(ctx, m.mon)
	return errors.Join(migrate.Fail("end the mirrors of the disks", migrate.SideSource, err, ""), m.close(ctx, agent.DiskClosing{Abandon: true}))
}
