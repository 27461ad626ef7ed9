package worker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/agent/datalink"
	"github.com/vmmigrate/vmmigrate/migrate/nbd"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/precopy/track"
)

// wholeRAM is the export that the destination's agent reads: all blocks, back to back.
const wholeRAM = "ram"

// defaultConns is the number of bulk connections.
const defaultConns = 4

// sourceEnd is the source's end of one migration.
type sourceEnd struct {
	w    *Worker
	spec agent.SourceSpec
	qemu *sys.Process
	pid  int // its number
	lock *lock
	mem  *memory

	tracker track.Tracker // nil if nothing is tracked
	summer  *summer       // nil unless fingerprints are asked for
	server  *nbd.Server
	link    *datalink.Keeper
	stream  net.Listener

	streamUp   chan struct{} // closed when QEMU has connected
	streamOnce sync.Once
	sent       atomic.Int64
	streamed   atomic.Int64

	closeOnce sync.Once
	closeErr  error
}

// OpenSource implements agent.Agent.
func (w *Worker) OpenSource(ctx context.Context, spec agent.SourceSpec) (agent.Source, error) {
	qemu, err := findQEMU(ctx, spec.Guest)
	if err != nil {
		return nil, migrate.Fail("find the guest's QEMU", migrate.SideSource, err, "")
	}
	k, err := w.take(ctx, migrate.SideSource, qemu.PID(), true) // the driver made sure that no other migration is under way
	if err != nil {
		return nil, errors.Join(err, qemu.Close())
	}
	s := &sourceEnd{w: w, spec: spec, qemu: qemu, pid: qemu.PID(), lock: k, streamUp: make(chan struct{})}
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(migrate.Fail("serve the guest's RAM", migrate.SideSource, err, ""), s.Close(context.WithoutCancel(ctx)))
	}
	w.keep(migrate.SideSource, s.pid, s)
	return s, nil
}

func (s *sourceEnd) open(ctx context.Context) error {
	err := s.w.spoiled(ctx, "open-source")
	if err != nil {
		return err
	}
	if s.mem, err = openMemory(s.pid, s.spec.Regions, false); err != nil {
		return err
	}
	if err := s.mem.mapAll(); err != nil {
		return err
	}
	if err := sweepSockets(s.spec.Stream, s.pid); err != nil {
		s.w.o.Log.Warn("remove the sockets of earlier migrations", "err", err)
	}
	if s.spec.Stream != "" && !s.spec.Resume {
		if s.stream, err = listenUnix(ctx, s.spec.Stream); err != nil {
			return err
		}
	}
	if err := s.track(ctx); err != nil {
		return err
	}
	if !s.qemu.Alive() { // what was opened may be another's
		return os.ErrProcessDone
	}
	if s.spec.Reuse {
		if s.summer, err = newSummer(s.spec.Link.Token); err != nil {
			return err
		}
	}
	if s.server, err = nbd.NewServer(nbd.Config{Exports: s.exports(), Log: s.w.o.Log}); err != nil {
		return err
	}
	conf, err := s.w.dataTLS(s.spec.Link.Peer)
	if err != nil {
		return err
	}
	conns := s.spec.Link.Conns
	if conns <= 0 {
		conns = defaultConns
	}
	if s.summer != nil {
		conns += sumsConns
	}
	s.link, err = datalink.Keep(datalink.KeepConfig{
		Config: datalink.Config{Migration: s.spec.Migration, Token: s.spec.Link.Token, TLS: conf, Log: s.w.o.Log, Patience: linkPatience},
		Addr:   s.spec.Link.Addr, Bulk: conns, Stream: s.stream != nil, Dial: s.w.o.Dial,
	}, s.serve)
	if err != nil {
		return err
	}
	return s.link.Ready(ctx)
}

// linkPatience is how long a silent peer keeps a data connection.
const linkPatience = 5 * time.Second

// track arms the tracker.
func (s *sourceEnd) track(ctx context.Context) error {
	if s.spec.Resume || s.spec.Tracker == "none" {
		return nil
	}
	regions := make([]track.Region, len(s.mem.parts))
	for i, p := range s.mem.parts {
		regions[i] = track.Region{Block: p.Block, Addr: p.addr, File: p.file, Base: p.base}
	}
	if err := takeOutTrackers(ctx, s.pid); err != nil {
		return err
	}
	var err error
	s.tracker, err = track.Open(ctx, s.spec.Tracker, s.pid, regions)
	return err
}

// exports offers the blocks, each and all together.
func (s *sourceEnd) exports() *nbd.Exports {
	witness, _ := s.tracker.(track.Witness)
	whole := nbd.Export{Name: wholeRAM, Description: "all RAM of " + s.spec.Guest.Name, Backend: mappedDevice{device{m: s.mem}}, ReadOnly: true}
	if witness != nil { // which has to see the bytes that are sent
		whole.Backend = device{m: s.mem, sent: witness}
	}
	all := nbd.NewExports(whole)
	if s.summer != nil {
		all.Add(nbd.Export{Name: ramSums, Description: "fingerprints of the pages of " + s.spec.Guest.Name, ReadOnly: true,
			Backend: newSumsDevice(device{m: s.mem, sent: witness}, s.summer), MinBlock: sumSize, MaxBlock: sumsPiece})
	}
	for i, p := range s.mem.parts {
		one := &memory{parts: append([]part(nil), s.mem.parts[i]), size: p.Size}
		one.parts[0].start = 0
		all.Add(nbd.Export{Name: "ram/" + p.Name, Description: fmt.Sprintf("RAM block %s of %s", p.Name, s.spec.Guest.Name), Backend: device{m: one}, ReadOnly: true})
	}
	return all
}

// listenUnix listens where only the superuser and the hypervisor come; a socket that a dead agent left is removed.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	var lc net.ListenConfig
	return lc.Listen(ctx, "unix", path)
}

// serve has one data connection.
func (s *sourceEnd) serve(ctx context.Context, c *datalink.Conn) {
	var err error
	if c.Role == datalink.Stream {
		err = s.relay(ctx, c)
	} else {
		err = s.server.ServeConn(ctx, &countedConn{Conn: c, sent: &s.sent})
	}
	if err != nil && ctx.Err() == nil {
		s.w.o.Log.Info("data connection ended", "role", c.Role, "index", c.Index, "err", err)
	}
}

// relay waits for QEMU and passes its stream on.
func (s *sourceEnd) relay(ctx context.Context, peer net.Conn) error {
	stop := context.AfterFunc(ctx, func() { _ = s.stream.Close() }) // wakes Accept
	defer stop()
	qemu, err := acceptFrom(s.stream, s.qemu.PID(), s.w.o.Log)
	if err != nil {
		return err
	}
	s.streamOnce.Do(func() { close(s.streamUp) })
	if err := s.w.spoiled(ctx, "stream"); err != nil {
		return errors.Join(err, qemu.Close(), peer.Close())
	}
	stopQEMU := context.AfterFunc(ctx, func() { _ = qemu.Close() }) // wakes the copying
	defer stopQEMU()
	return splice(qemu, peer, func(n int64) { s.streamed.Add(n) })
}

// countedConn counts what is sent.
type countedConn struct {
	*datalink.Conn
	sent *atomic.Int64
}

func (c *countedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.sent.Add(int64(n))
	return n, err
}

// Harvest implements agent.Source.
func (s *sourceEnd) Harvest(ctx context.Context) (agent.Harvest, error) {
	if s.tracker == nil {
		return s.present(ctx)
	}
	begun := time.Now()
	err := s.w.spoiled(ctx, "harvest")
	var dirty ram.Set
	if err == nil {
		dirty, err = s.tracker.Harvest(ctx)
	}
	return agent.Harvest{Dirty: dirty, Took: time.Since(begun), Tracker: s.tracker.Name()}, migrate.Fail("read the dirty pages", migrate.SideSource, err, "")
}

// present gives all pages that are not holes, for a source whose guest stands still.
func (s *sourceEnd) present(ctx context.Context) (agent.Harvest, error) {
	begun := time.Now()
	holes, err := s.mem.holes(ctx)
	if err != nil {
		return agent.Harvest{}, err
	}
	all := ram.NewSet(s.mem.blocks())
	all.Fill()
	all.AndNot(holes)
	return agent.Harvest{Dirty: all, Took: time.Since(begun), Tracker: "none"}, nil
}

// Stats implements agent.Source.
func (s *sourceEnd) Stats(context.Context) (agent.SourceStats, error) {
	up, _ := s.link.State()
	return agent.SourceStats{Links: up, SentBytes: s.sent.Load(), StreamBytes: s.streamed.Load()}, nil
}

// StreamUp implements agent.Source.
func (s *sourceEnd) StreamUp(ctx context.Context) error {
	select {
	case <-s.streamUp:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("QEMU did not connect to %s: %w", s.spec.Stream, ctx.Err())
	}
}

// Close implements agent.Source.
func (s *sourceEnd) Close(ctx context.Context) error {
	if err := s.w.spoiled(ctx, "close-source"); err != nil {
		return err
	}
	s.closeOnce.Do(func() {
		var errs []error
		if s.tracker != nil {
			errs = append(errs, s.tracker.Close())
		}
		errs = append(errs, s.letGo())
		s.closeErr = errors.Join(errs...)
	})
	return s.closeErr
}

// letGo ends all connections and frees what is ours. QEMU is left as it is.
func (s *sourceEnd) letGo() error {
	var errs []error
	if s.link != nil {
		s.link.Close()
	}
	if s.server != nil {
		errs = append(errs, s.server.Close())
	}
	if s.stream != nil {
		if err := s.stream.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if s.mem != nil {
		errs = append(errs, s.mem.close())
	}
	s.w.forget(migrate.SideSource, s.pid, s)
	return errors.Join(append(errs, s.qemu.Close(), s.lock.release())...)
}

func (s *sourceEnd) detach() error {
	s.closeOnce.Do(func() { s.closeErr = s.letGo() })
	return s.closeErr
}

func (s *sourceEnd) guest() int { return s.pid }

func (s *sourceEnd) abandon(ctx context.Context) error { return s.Close(ctx) }

// linger serves on after the switch, as long as the destination's agent comes for pages and no other takes its place. The
// pages stay in QEMU: another agent can go on from where this one ends.
func (s *sourceEnd) linger(ctx context.Context) {
	select {
	case <-s.streamUp:
	default:
		if !s.spec.Resume {
			return // the guest has not left
		}
	}
	ctx, stop := s.lock.untilWanted(ctx)
	defer stop()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	turned := 0 // how often the destination's host has said that nobody is there
	for silent := time.Duration(0); silent < s.w.o.Linger && turned < goneAfter; silent += time.Second {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !s.qemu.Alive() {
			return // QEMU is gone, and its RAM with it
		}
		up, why := s.link.State()
		if up > 0 {
			silent = 0
		}
		if turned++; up > 0 || !errors.Is(why, syscall.ECONNREFUSED) {
			turned = 0
		}
	}
}

// goneAfter is how many seconds in a row nobody must listen where the destination's agent did, for it to be gone. Another
// that takes its place listens elsewhere, and has another source's agent sent for.
const goneAfter = 3
