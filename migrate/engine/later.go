package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/libvirthost"
	"github.com/vmmigrate/vmmigrate/migrate/storage"
)

// later moves a guest's disks after it has gone (migrate.CopyAfter), with an agent on each host:
//
//	plan, open    the destination's agent serves an export for each disk; the guest waits on overlays above them
//	thaw          the source's QEMU has let go of its images: the guest's reads are answered
//	page          all that the source has is fetched, then each overlay is folded into the disk's final image
//	done, undo    the agents let go, overlays and caches are removed
//
// It is part of a session, and used by it only.
type later struct {
	s     *session
	to    migrate.Overlayer
	here  *peer
	there *peer
	disks []laterDisk

	source agent.DiskSource
	dest   agent.DiskDest
	thawed *call          // freezes the source and thaws the destination
	opened [2]agent.Agent // who has the ends
	failed time.Time      // when paging broke off last
}

// peer is an agent with what is known of it.
type peer struct {
	agent.Agent
	id  agent.Identity
	at  migrate.Place
	own bool // it was reached for the disks alone
}

// laterDisk is one of its disks.
type laterDisk struct {
	migrate.Overlay
	from  migrate.Disk
	size  int64
	cache string
}

// newLater is for a session whose parameters ask for it; nil for others.
func newLater(s *session) (*later, error) {
	if s.p.CopyStorage != migrate.CopyAfter {
		return nil, nil
	}
	const op = "move the disks after the guest"
	to, ok := s.dst.(migrate.Overlayer)
	_, located := s.dst.(migrate.Located)
	_, locatedSource := s.src.(migrate.Located)
	switch {
	case !ok || !located || !locatedSource || s.connect == nil:
		return nil, migrate.Fail(op, migrate.SideDestination, fmt.Errorf("%s: %w", s.dst.URI(), migrate.ErrNotSupported), "use --copy-storage-all")
	case s.p.PeerToPeer:
		return nil, migrate.Fail(op, migrate.SideCoordinator, fmt.Errorf("peer-to-peer: %w", migrate.ErrNotSupported), "leave out --p2p, or use --copy-storage-all")
	}
	return &later{s: s, to: to}, nil
}

// withoutDisks are parameters for drivers that are to leave the disks alone.
func withoutDisks(p migrate.Params) migrate.Params {
	p.CopyStorage, p.MigrateDisks, p.Disks, p.SynchronousWrites = migrate.CopyNone, nil, nil, false
	p.Unsafe = true // libvirt would take the disks for ones that nobody moves
	return p
}

// with hands agents over that are the session's own.
func (l *later) with(here, there peer) { l.here, l.there = &here, &there }

// prepare makes final images and overlays and opens both ends. It is done before the destination's QEMU is started; drivers are to
// leave the disks alone from then on.
func (l *later) prepare(ctx context.Context) error {
	if err := l.reach(ctx); err != nil {
		return err
	}
	if l.s.makesImages() {
		if err := l.s.makeImages(ctx, l.here, l.there); err != nil {
			return err
		}
	}
	if err := l.plan(ctx); err != nil {
		return err
	}
	if err := l.room(ctx); err != nil {
		return err
	}
	l.s.p = withoutDisks(l.s.p)
	return l.open(ctx, l.s.made)
}

// reach reaches both agents, unless they were handed over.
func (l *later) reach(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	for _, e := range []struct {
		side migrate.Side
		h    migrate.Host
		p    **peer
	}{{migrate.SideSource, l.s.src, &l.here}, {migrate.SideDestination, l.s.dst, &l.there}} {
		if *e.p != nil {
			continue
		}
		g.Go(func() error {
			p := &peer{own: true}
			var err error
			if p.at, err = e.h.(migrate.Located).Place(gctx); err != nil {
				return migrate.Fail("find out where the agent belongs", e.side, err, "")
			}
			if p.Agent, err = l.s.connect(gctx, p.at); err != nil {
				return migrate.Fail("reach the agent", e.side, err, "install vmmigrate there and run vmmigrate agent, or use --copy-storage-all")
			}
			*e.p = p
			p.id, err = p.Hello(gctx)
			return migrate.Fail("greet the agent", e.side, err, "")
		})
	}
	return g.Wait()
}

// plan finds out what the disks are and where they go. final has those that a description of the guest at the destination names.
func (l *later) plan(ctx context.Context) error {
	guest, err := l.s.src.Domain(ctx, l.s.job.Domain)
	if err != nil {
		return migrate.Fail("look at the guest's disks", migrate.SideSource, err, "")
	}
	finals, err := l.finals(ctx, guest)
	if err != nil {
		return err
	}
	l.disks = nil
	for _, d := range guest.Disks {
		if !l.s.job.Params.Copies(d) {
			continue
		}
		f, ok := finals[d.Target]
		if !ok || f.Kind != "file" && f.Kind != "block" {
			return migrate.Fail("look at disk "+d.Target, migrate.SideDestination, fmt.Errorf("it has no image of its own there: %w", migrate.ErrNotSupported),
				"leave it out with --migrate-disks, or use --copy-storage-all")
		}
		if _, mapper := l.s.src.(migrate.DiskMapper); !mapper && f.Kind == "block" { // another coordinator would not find it again
			return migrate.Fail("look at disk "+d.Target, migrate.SideDestination, fmt.Errorf("%s of a bare QEMU: %w", f.Path, migrate.ErrNotSupported), "use --copy-storage-all")
		}
		img, err := l.here.DescribeImage(ctx, storage.Query{Path: d.Path, Format: d.Format})
		if err != nil {
			return migrate.Fail("look at the image of disk "+d.Target, migrate.SideSource, err, "")
		}
		top, ok := img.Top()
		if !ok {
			return migrate.Fail("look at the image of disk "+d.Target, migrate.SideSource, fmt.Errorf("%s: %w", d.Path, migrate.ErrNotSupported), "")
		}
		l.disks = append(l.disks, l.place(d, f, top.VirtualSize))
	}
	if len(l.disks) == 0 {
		return migrate.Fail("look at the guest's disks", migrate.SideSource, errors.New("none of them is to be moved"), "leave out --copy-storage-after")
	}
	return nil
}

// finals are the disks as they are to be in the end, by target.
func (l *later) finals(ctx context.Context, guest migrate.DomainFacts) (map[string]migrate.Disk, error) {
	disks := guest.Disks
	var err error
	if _, mapper := l.s.src.(migrate.DiskMapper); !mapper { // a QEMU that its owner started has its own
		var d migrate.DomainFacts
		d, err = l.s.dst.Domain(ctx, l.s.destName())
		disks = l.beforeOverlays(d.Disks)
	} else if l.s.p.DestinationXML != "" {
		var f migrate.DomainFacts
		f, err = libvirthost.FactsOf(l.s.p.DestinationXML)
		disks = f.Disks
	}
	if err != nil {
		return nil, migrate.Fail("look at the guest's disks", migrate.SideDestination, err, "")
	}
	out := map[string]migrate.Disk{}
	for _, d := range disks {
		out[d.Target] = l.s.job.Params.MapDisk(d)
	}
	return out, nil
}

// beforeOverlays gives disks that are on overlays as they were, from the journal.
func (l *later) beforeOverlays(disks []migrate.Disk) []migrate.Disk {
	out := slices.Clone(disks)
	for i, d := range out {
		for _, m := range l.s.job.Kept {
			if final, ok := strings.CutSuffix(m.Path, overlayMark); ok && m.Target == plain(d.Target)+"-overlay" && d.Path != final {
				// A QEMU describes an overlay above an export in its own words, so the kind is not to be trusted, and the driver knows
				// the format. One whose final image is a device is refused before it is sent (plan).
				out[i].Path, out[i].Format, out[i].Kind = final, "", "file"
			}
		}
	}
	return out
}

// place names what belongs to a disk, from the migration's name and the disk's alone, so that another coordinator finds it.
func (l *later) place(from, final migrate.Disk, size int64) laterDisk {
	dir := filepath.Dir(final.Path)
	if final.Kind == "block" {
		dir = "/var/tmp"
	}
	name := l.spec(from.Target, "", size).Migration + "-" + plain(from.Target)
	return laterDisk{
		Overlay: migrate.Overlay{Target: from.Target, Path: filepath.Join(dir, l.spec(from.Target, "overlay", size).Intended().Staged),
			Socket: path.Join(l.there.at.SocketDir, "vmmigrate-"+name+".nbd"), Final: final},
		from: from, size: size, cache: filepath.Join(dir, l.spec(from.Target, "cache", size).Intended().Staged),
	}
}

// overlayMark follows the final image's name in the journal.
const overlayMark = ".overlay"

// plain makes a part of a name of what a disk is called.
func plain(target string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '_'
	}, target)
}

// spec is a file that a disk has beside its final image for a while, under a name of the migration's own.
func (l *later) spec(target, kind string, size int64) storage.Spec {
	return storage.Spec{Migration: l.s.job.ID, Target: plain(target) + "-" + kind, Format: "qcow2", Size: size}
}

// room makes sure that final images, caches and overlays fit, as far as what the source has goes.
func (l *later) room(ctx context.Context) error {
	need := map[uint64]int64{}
	for _, d := range l.disks {
		if d.Final.Kind == "block" {
			continue
		}
		from, err := l.here.DescribeImage(ctx, storage.Query{Path: d.from.Path, Format: d.from.Format})
		if err != nil {
			return migrate.Fail("look at the image of disk "+d.Target, migrate.SideSource, err, "")
		}
		to, err := l.there.DescribeImage(ctx, storage.Query{Path: d.Final.Path, Format: d.Final.Format})
		if err != nil {
			return migrate.Fail("look at the image of disk "+d.Target, migrate.SideDestination, err, "")
		}
		need[to.Filesystem] += 2 * min(from.Allocated(), d.size)
		if need[to.Filesystem] > to.Free {
			return &migrate.OpError{Op: "move the disks after the guest", Side: migrate.SideDestination,
				Err: fmt.Errorf("%w beside %s: %d bytes are free, and %d are needed, since what is fetched is kept until it is in the image", storage.ErrNoRoom, d.Final.Path, to.Free, need[to.Filesystem]),
				Fix: "free some space there, or use --copy-storage-all, which needs half of it"}
		}
	}
	return nil
}

// open makes the overlays and opens both ends. made are images that were made already.
func (l *later) open(ctx context.Context, made []storage.Made) error {
	for _, d := range l.disks {
		spec := l.spec(d.Target, "overlay", d.size)
		spec.Path = filepath.Join(filepath.Dir(d.Path), filepath.Base(d.Final.Path)+overlayMark) // a name that nobody has; it tells another coordinator of the image
		made = append(made, spec.Intended())
		if err := l.s.keep(ctx, made); err != nil {
			return err
		}
		m, err := l.there.StageImage(ctx, spec)
		if err != nil {
			return migrate.Fail("make an overlay for disk "+d.Target, migrate.SideDestination, err, "")
		}
		made[len(made)-1] = m
	}
	if err := l.s.keep(ctx, made); err != nil {
		return err
	}
	return l.openEnds(ctx, false)
}

// openEnds opens both agents' ends, for a guest that is to come, or one that may be there.
func (l *later) openEnds(ctx context.Context, resume bool) error {
	host, err := l.s.destAddress(ctx, l.there.at)
	if err != nil {
		return err
	}
	to := agent.DiskDestSpec{Migration: l.s.job.ID, Mode: agent.DisksAfter, Guest: l.s.destName(), Resume: resume,
		Bandwidth: l.s.job.Params.DiskCap(), Link: l.s.listenLink(l.here.at, l.there.at, host)}
	from := agent.DiskSourceSpec{Migration: l.s.job.ID, Mode: agent.DisksAfter, Resume: resume}
	for _, d := range l.disks {
		to.Disks = append(to.Disks, agent.DestDisk{Target: d.Target, Size: d.size, Socket: d.Socket, Cache: d.cache})
		from.Disks = append(from.Disks, agent.SourceDisk{Target: d.Target, Path: d.from.Path, Format: d.from.Format, Size: d.size})
	}
	to.Link.Token = rand.Text()
	if !l.s.job.Params.PlainData {
		to.Link.Peer, from.Link.Peer = l.here.id.Certificate, l.there.id.Certificate
	}
	ctx, stop := within(ctx, l.s.undo)
	defer stop()
	if l.dest, err = l.there.OpenDiskDest(ctx, to); err != nil {
		return migrate.Fail("serve the disks", migrate.SideDestination, lost(ctx, err), "")
	}
	_, port, err := net.SplitHostPort(l.dest.Addr())
	if err != nil {
		return err
	}
	from.Link.Addr, from.Link.Token = net.JoinHostPort(host, port), to.Link.Token
	l.opened = [2]agent.Agent{l.here.Agent, l.there.Agent}
	l.source, err = l.here.OpenDiskSource(ctx, from)
	return migrate.Fail("serve the disks", migrate.SideSource, lost(ctx, err), "")
}

// put sees to it that the waiting guest is on its overlays.
func (l *later) put(ctx context.Context) error {
	if err := l.to.PutOverlays(ctx, l.s.destName(), l.overlays()); err != nil {
		return err
	}
	ctx, stop := within(ctx, l.s.undo)
	defer stop()
	return migrate.Fail("start the guest on overlays", migrate.SideDestination, lost(ctx, l.dest.Ready(ctx)), "use --copy-storage-all, and report this")
}

// overlays are what the destination's driver has to know.
func (l *later) overlays() []migrate.Overlay {
	var out []migrate.Overlay
	for _, d := range l.disks {
		out = append(out, d.Overlay)
	}
	return out
}
