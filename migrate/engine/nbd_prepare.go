package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/libvirthost"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// Prepare reaches both agents, makes the destination wait and connects the agents. When it fails Undo takes it back.
func (s *nbdSession) Prepare(ctx context.Context) error {
	if err := s.watch(ctx); err != nil {
		return err
	}
	e, err := s.places(ctx)
	if err != nil {
		return err
	}
	regions, err := s.sharedRAM(ctx)
	if err != nil {
		return migrate.Fail("look at the guest's RAM", migrate.SideSource, err, "use --engine native")
	}
	if err := s.mapDisks(ctx); err != nil {
		return err
	}
	switch {
	case s.later != nil:
		if err := s.meet(ctx, &e); err != nil {
			return err
		}
		if err := s.later.prepare(ctx); err != nil {
			return err
		}
	case s.makesImages(): // the images have to be there before the destination's QEMU is
		if err := s.meet(ctx, &e); err != nil {
			return err
		}
		if err := s.makeImages(ctx, s.srcAgent, s.dstAgent); err != nil {
			return err
		}
	}
	if s.mirrored != nil {
		if err := errors.Join(s.mirrored.plan(ctx), s.mirrored.keep(ctx)); err != nil {
			return err
		}
		s.p = withoutDisks(s.p)
	}
	var both errgroup.Group // starting a QEMU takes as long as starting agents
	both.Go(func() error { return s.wait(ctx, &e) })
	if s.dstAgent == nil {
		both.Go(func() error { return s.meet(ctx, &e) })
	}
	if err := both.Wait(); err != nil {
		return err
	}
	if err := s.openDest(ctx, e, regions); err != nil {
		return migrate.Fail("take over the waiting guest's RAM", migrate.SideDestination, err, "")
	}
	if err := s.openSource(ctx, e, regions); err != nil {
		return migrate.Fail("take over the guest's RAM", migrate.SideSource, err, "")
	}
	s.flusher = newFlusher(ctx, s.session, s.srcAgent, s.dstAgent)
	if s.mirrored != nil {
		return s.mirrored.open(ctx, e)
	}
	return nil
}

// ends is what Prepare knows of both hosts.
type ends struct {
	src, dst     migrate.Place
	srcID, dstID agent.Identity
	token        string
	monitor      string // of the destination's QEMU; empty where its driver holds the only one
	streamAt     string // the destination's unix socket for QEMU's stream
}

// newToken is a secret that only the two agents of one migration get to know.
func newToken() string { return rand.Text() }

// places finds out where both agents belong.
func (s *nbdSession) places(ctx context.Context) (ends, error) {
	e := ends{token: newToken()}
	for _, h := range []struct {
		side migrate.Side
		at   migrate.Located
		to   *migrate.Place
	}{{migrate.SideSource, s.from, &e.src}, {migrate.SideDestination, s.to, &e.dst}} {
		var err error
		if *h.to, err = h.at.Place(ctx); err != nil {
			return e, migrate.Fail("find out where the agent belongs", h.side, err, "use --engine native")
		}
	}
	s.bareSource = e.src.PIDFile == nil
	return e, nil
}

// meet reaches both agents and makes them known to each other.
func (s *nbdSession) meet(ctx context.Context, e *ends) error {
	g, gctx := errgroup.WithContext(ctx)
	reach := func(side migrate.Side, p migrate.Place, a *agent.Agent, id *agent.Identity) func() error {
		return func() error {
			var err error
			if *a, err = s.connect(gctx, p); err != nil {
				return migrate.Fail("reach the agent", side, err, "install vmmigrate there and run vmmigrate agent, or use --engine native")
			}
			*id, err = (*a).Hello(gctx)
			return migrate.Fail("greet the agent", side, err, "")
		}
	}
	g.Go(reach(migrate.SideSource, e.src, &s.srcAgent, &e.srcID))
	g.Go(reach(migrate.SideDestination, e.dst, &s.dstAgent, &e.dstID))
	err := g.Wait()
	if err == nil && s.later != nil {
		s.later.with(peer{Agent: s.srcAgent, id: e.srcID, at: e.src}, peer{Agent: s.dstAgent, id: e.dstID, at: e.dst})
	}
	return err
}

// largestPage is the largest page in bytes: a guest that asks for one waits until all of it is there, and dozens are under way
// at once, in memory of the agents.
const largestPage = 32 << 20

// sharedRAM lists the RAM blocks that QEMU leaves out of its stream, and makes sure that they are all of the guest's RAM.
func (s *nbdSession) sharedRAM(ctx context.Context) ([]agent.Region, error) {
	mon, err := s.from.Monitor(ctx, s.job.Domain)
	if err != nil {
		return nil, err
	}
	regions, err := sharedRegions(ctx, mon)
	if err != nil {
		return nil, err
	}
	size, err := qmp.QueryMemorySizeSummary(ctx, mon)
	if err != nil {
		return nil, err
	}
	var total int64
	for _, r := range regions {
		if r.PageSize > largestPage {
			return nil, &migrate.OpError{Op: "look at the guest's RAM", Side: migrate.SideSource, Fix: "use --engine native",
				Err: fmt.Errorf("block %q has pages of %d MiB, and each would be fetched as a whole: %w", r.Name, r.PageSize>>20, migrate.ErrNotSupported)}
		}
		total += r.Size
		s.blocks = append(s.blocks, r.Block)
	}
	want := int64(size.Base)
	if size.Plugged != nil {
		want += int64(*size.Plugged)
	}
	if total < want {
		return nil, &migrate.OpError{Op: "look at the guest's RAM", Side: migrate.SideSource, Err: fmt.Errorf("only %d of %d MiB are in shared files: %w", total>>20, want>>20, migrate.ErrNotSupported),
			Fix: "give the guest <memoryBacking><source type='file'/><access mode='shared'/></memoryBacking>, or use --engine native"}
	}
	return regions, nil
}

// sharedRegions gives QEMU's file-backed shared memory backends with their places.
func sharedRegions(ctx context.Context, x qmp.Executor) ([]agent.Region, error) {
	devs, err := qmp.QueryMemdev(ctx, x)
	if err != nil {
		return nil, err
	}
	blocks, err := qmp.QueryRAMBlocks(ctx, x)
	if err != nil {
		return nil, err
	}
	var out []agent.Region
	for _, d := range devs {
		if d.ID == nil || d.Share == nil || !*d.Share {
			continue
		}
		var typ string
		if err := qmp.QOMGet(ctx, x, "/objects/"+*d.ID, "type", &typ); err != nil {
			return nil, err
		}
		if typ != "memory-backend-file" {
			continue
		}
		b, ok := blockOf(blocks, *d.ID)
		if !ok || b.HostAddress == nil {
			return nil, fmt.Errorf("QEMU does not say where its memory backend %q is: %w", *d.ID, migrate.ErrNotSupported)
		}
		out = append(out, agent.Region{Block: ram.Block{Name: b.Name, Size: int64(b.Used), PageSize: int64(b.PageSize)}, Addr: *b.HostAddress})
	}
	return out, nil
}

// blockOf finds a backend's block: QEMU names it after the backend, with or without its path in the object tree.
func blockOf(blocks []qmp.RAMBlock, id string) (qmp.RAMBlock, bool) {
	for _, b := range blocks {
		if b.Name == id || b.Name == "/objects/"+id {
			return b, true
		}
	}
	return qmp.RAMBlock{}, false
}

// wait makes the destination's QEMU wait for its stream on a unix socket, to which only its agent connects.
func (s *nbdSession) wait(ctx context.Context, e *ends) error {
	offer, err := s.from.Begin(ctx, s.job.Domain, s.p)
	if err != nil {
		return migrate.Fail("begin the migration", migrate.SideSource, err, "")
	}
	s.offer, s.begun = offer, true
	if offer.Paused && s.strategy.Postcopy() {
		s.strategy = migrate.StrategyPrecopy // it writes nothing: one round has it all
		s.job.Sink.Note("the guest is paused: pre-copy moves it whole")
	}
	name := "vmmigrate-" + s.job.ID
	e.streamAt = path.Join(e.dst.SocketDir, name+".in")
	s.sourceStream = path.Join(e.src.SocketDir, name+".out")
	p := s.p
	if p.DisksURI == "" && p.CopyStorage != migrate.CopyNone {
		host, err := s.destAddress(ctx, e.dst)
		if err != nil {
			return err
		}
		p.DisksURI = "tcp://" + host
	}
	p.MigrateURI = "unix://" + e.streamAt
	if s.later != nil {
		if p, err = s.later.to.OnOverlays(offer, p, s.later.overlays()); err != nil {
			return err
		}
	}
	if e.dst.PIDFile != nil { // libvirt's own monitor does not answer while a guest comes in
		if p.DestinationXML == "" {
			p.DestinationXML = offer.XML
		}
		xml, monitor, err := libvirthost.WithMonitor(p.DestinationXML, path.Join(e.dst.SocketDir, name+".qmp"))
		if err != nil {
			return migrate.Fail("give the destination a second monitor", migrate.SideDestination, err, "")
		}
		p.DestinationXML, e.monitor = xml, monitor
		s.offer.XML = xml
	}
	s.p = p
	ticket, err := s.to.Prepare(ctx, s.offer, p)
	if err != nil {
		return migrate.Fail("prepare the destination", migrate.SideDestination, err, "")
	}
	s.ticket, s.prepared = ticket, true
	if s.later == nil {
		return nil
	}
	return s.later.put(ctx)
}

// openDest hands the waiting QEMU to the destination's agent.
func (s *nbdSession) openDest(ctx context.Context, e ends, regions []agent.Region) error {
	spec := agent.DestSpec{Migration: s.job.ID, Guest: s.guest(e.dst, s.destName()), Stream: e.streamAt,
		Link: agent.Link{Token: e.token}, Lazy: s.strategy.Postcopy(), Resume: s.p.Resume, Still: s.offer.Paused,
		Bandwidth: s.job.Params.Bandwidth, BandwidthPaging: s.job.Params.BandwidthPostcopy, Prepage: s.job.Params.Prepage, Reuse: s.job.Params.Reuse, ReuseRAM: s.job.Params.ReuseRAM}
	spec.Guest.Monitor = e.monitor
	for _, r := range regions {
		spec.Regions = append(spec.Regions, agent.Region{Block: r.Block})
	}
	if e.monitor == "" && !s.p.Resume { // then it may wait for a page, and its agent looks for itself
		if err := s.placeDest(ctx, spec.Regions); err != nil {
			return err
		}
	}
	host, err := s.destAddress(ctx, e.dst)
	if err != nil {
		return err
	}
	link := s.listenLink(e.src, e.dst, host)
	spec.Link.Addr, spec.Link.Ports = link.Addr, link.Ports
	if !s.job.Params.PlainData {
		spec.Link.Peer = e.srcID.Certificate
	}
	ctx, stop := s.soon(ctx)
	defer stop()
	if s.dest, err = s.dstAgent.OpenDest(ctx, spec); err == nil && (spec.Reuse || spec.ReuseRAM != "") {
		s.job.Sink.Note(heldNote(s.dest.Held()))
	}
	return lost(ctx, err)
}

// placeDest asks a QEMU whose only monitor the driver holds where its RAM is.
func (s *nbdSession) placeDest(ctx context.Context, regions []agent.Region) error {
	m, ok := s.to.(migrate.Monitored)
	if !ok {
		return fmt.Errorf("its RAM cannot be asked for: %w", migrate.ErrNotSupported)
	}
	mon, err := m.Monitor(ctx, s.destName())
	if err != nil {
		return err
	}
	own, err := sharedRegions(ctx, mon)
	if err != nil {
		return err
	}
	for i, r := range regions {
		for _, o := range own {
			if o.Name == r.Name && o.Size == r.Size && o.PageSize == r.PageSize {
				regions[i].Addr = o.Addr
			}
		}
		if regions[i].Addr == 0 {
			return &migrate.OpError{Op: "find the guest's RAM", Side: migrate.SideDestination, Err: fmt.Errorf("block %q of %d MiB with pages of %d KiB is not in a shared file there", r.Name, r.Size>>20, r.PageSize>>10),
				Fix: "start the destination's QEMU with the source's memory backends"}
		}
	}
	return nil
}

// openSource hands the guest to the source's agent, which connects to the other.
func (s *nbdSession) openSource(ctx context.Context, e ends, regions []agent.Region) error {
	host, err := s.destAddress(ctx, e.dst)
	if err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(s.dest.Addr())
	if err != nil {
		return err
	}
	spec := agent.SourceSpec{Migration: s.job.ID, Guest: s.guest(e.src, s.job.Domain), Regions: regions, Stream: s.sourceStream,
		Tracker: s.job.Params.Tracker, Link: agent.Link{Addr: net.JoinHostPort(host, port), Token: e.token}, Resume: s.p.Resume, Reuse: s.dest.Held().Usable}
	if !s.job.Params.PlainData {
		spec.Link.Peer = e.dstID.Certificate
	}
	ctx, stop := s.soon(ctx)
	defer stop()
	s.source, err = s.srcAgent.OpenSource(ctx, spec)
	return lost(ctx, err)
}

func (s *nbdSession) guest(p migrate.Place, name string) agent.Guest {
	g := agent.Guest{Name: name, UUID: s.offer.UUID}
	if p.PIDFile != nil {
		g.PIDFile = p.PIDFile(name)
	} else {
		g.PID = innerPID(p.PID)
	}
	return g
}

// innerPID is the number that a process has in its own process namespace, in which its agent is: the last of NSpid (proc(5)).
func innerPID(pid int) int {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return pid
	}
	for line := range strings.Lines(string(raw)) {
		numbers, ok := strings.CutPrefix(line, "NSpid:")
		if f := strings.Fields(numbers); ok && len(f) > 0 {
			if n, err := strconv.Atoi(f[len(f)-1]); err == nil {
				return n
			}
		}
	}
	return pid
}
