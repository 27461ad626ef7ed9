package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// Exports is the RAM of a guest, running or paused, that NBD clients may read. The guest stays where it is and is not
// touched: QEMU is asked where its RAM is, and no more. Close it.
//
//	NBD client ── listener ── Exports.Serve ── control connection ── agent: NBD server ── QEMU's RAM files, /proc/PID/mem
type Exports struct {
	agent  agent.Agent
	served agent.Exported
	blocks []ram.Block
}

// Export is one device of Exports.
type Export struct {
	// Name is what NBD clients ask for.
	Name string `json:"name"`
	// Size is in bytes.
	Size int64 `json:"size"`
}

// OpenExports finds the RAM of the domain and has the agent of its host serve it. With track the exports tell, as the
// dirty bitmap "vmmigrate", what the guest writes from now on. The host stays the caller's. Errors that a caller may look
// for: ErrNoDomain, ErrNotSupported (the driver cannot play its part), ErrBusy (a migration holds the guest).
func (n *NBD) OpenExports(ctx context.Context, h migrate.Host, domain string, track bool) (*Exports, error) {
	const op = "export the guest's RAM"
	m, monitored := h.(migrate.Monitored)
	l, located := h.(migrate.Located)
	if !monitored || !located || n.Connect == nil {
		return nil, migrate.Fail(op, "", fmt.Errorf("%s cannot be asked for RAM: %w", h.URI(), migrate.ErrNotSupported), "")
	}
	if err := hasRAM(ctx, h, domain); err != nil {
		return nil, migrate.Fail(op, "", err, "")
	}
	mon, err := m.Monitor(ctx, domain)
	if err != nil {
		return nil, migrate.Fail(op, "", err, "")
	}
	spec := agent.ExportSpec{Track: track}
	if spec.Regions, err = allRegions(ctx, mon); err != nil {
		return nil, migrate.Fail("find the guest's RAM", "", err, "")
	}
	at, err := l.Place(ctx)
	if err != nil {
		return nil, migrate.Fail("find out where the agent belongs", "", err, "")
	}
	spec.Guest = agent.Guest{Name: domain}
	if at.PIDFile != nil {
		spec.Guest.PIDFile = at.PIDFile(domain)
	} else {
		spec.Guest.PID = innerPID(at.PID)
	}
	x := &Exports{}
	for _, r := range spec.Regions {
		x.blocks = append(x.blocks, r.Block)
	}
	if x.agent, err = n.Connect(ctx, at); err != nil {
		return nil, migrate.Fail("reach the agent", "", err, "install vmmigrate there and run vmmigrate agent")
	}
	if x.served, err = x.agent.Export(ctx, spec); err != nil {
		return nil, errors.Join(err, x.agent.Close())
	}
	return x, nil
}

// hasRAM refuses guests that have no RAM here, or not all of it.
func hasRAM(ctx context.Context, h migrate.Host, domain string) error {
	st, err := h.State(ctx, domain)
	if err != nil {
		return err
	}
	switch st.Run {
	case migrate.RunStopped, migrate.RunCrashed:
		return &migrate.OpError{Op: "look at the guest", Err: fmt.Errorf("it is %s and has no RAM: %w", st.Run, migrate.ErrNoDomain), Fix: "start the guest"}
	case migrate.RunIncoming, migrate.RunPostcopy, migrate.RunPostcopyPaused:
		return &migrate.OpError{Op: "look at the guest", Err: fmt.Errorf("it is %s: %w", st.Run, migrate.ErrBusy), Fix: "wait until the migration has ended: vmmigrate watch " + domain}
	}
	return nil
}

// allRegions gives the RAM of a guest, shared or not: QEMU's memory backends that are in use, with their places.
func allRegions(ctx context.Context, x qmp.Executor) ([]agent.Region, error) {
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
		if d.ID == nil {
			continue
		}
		b, ok := blockOf(blocks, *d.ID)
		if !ok {
			continue // a backend that no device uses
		}
		if b.HostAddress == nil {
			return nil, fmt.Errorf("QEMU does not say where its memory backend %q is: %w", *d.ID, migrate.ErrNotSupported)
		}
		out = append(out, agent.Region{Block: ram.Block{Name: b.Name, Size: int64(b.Used), PageSize: int64(b.PageSize)}, Addr: *b.HostAddress})
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("QEMU names no memory backend: %w", migrate.ErrNotSupported)
	}
	return out, nil
}

// List is what is served: all RAM first, then each block.
func (x *Exports) List() []Export {
	all := Export{Name: agent.WholeRAM}
	var out []Export
	for _, b := range x.blocks {
		all.Size += b.Size
		out = append(out, Export{agent.ExportName(b.Name), b.Size})
	}
	return append([]Export{all}, out...)
}

// Written gives the pages written since the last call, at first since the exports were opened, which have to track. After
// an error, close them. ErrBusy: a migration needs the tracker's place, and the
// exports have ended.
func (x *Exports) Written(ctx context.Context) (agent.Harvest, error) {
	h, err := x.served.Written(ctx)
	if err != nil && errors.Is(err, agent.ErrClosed) {
		err = errors.Join(err, x.served.Wait(ctx)) // it says why
	}
	return h, err
}

// Blocks are the RAM blocks that pages are counted in.
func (x *Exports) Blocks() []ram.Block { return slices.Clone(x.blocks) }

// Serve takes NBD clients from l, which it closes, until ctx ends or the exports do. It returns nil if ctx ended, and
// when all clients' connections have ended.
func (x *Exports) Serve(ctx context.Context, l net.Listener) error {
	serving, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	var why error // why the exports ended by themselves; written before stop
	wg.Go(func() {
		err := x.served.Wait(serving)
		if serving.Err() != nil {
			return
		}
		if err == nil {
			err = agent.ErrClosed
		}
		why = err
		stop()
	})
	wake := context.AfterFunc(serving, func() { _ = l.Close() }) // wakes Accept
	err := x.accept(serving, l, &wg)
	ended := serving.Err() != nil
	stop()
	wake()
	_ = l.Close() // nobody accepts any more
	wg.Wait()
	switch {
	case ctx.Err() != nil:
		return nil
	case why != nil:
		return migrate.Fail("serve the guest's RAM", "", why, "")
	case ended:
		return nil
	}
	return migrate.Fail("wait for NBD clients", "", err, "")
}

// accept gives each client a goroutine. It returns when the listener fails.
func (x *Exports) accept(ctx context.Context, l net.Listener, wg *sync.WaitGroup) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		wg.Go(func() { _ = x.served.Serve(ctx, conn) }) // a client's trouble is its own; Wait tells ours
	}
}

// closeLimit bounds how long the agent may take to leave QEMU.
const closeLimit = 15 * time.Second

// Close ends the exports and the agent, and takes the tracker out of QEMU.
func (x *Exports) Close() error {
	ctx, stop := context.WithTimeout(context.Background(), closeLimit)
	defer stop()
	err := x.served.Close(ctx)
	if errors.Is(err, migrate.ErrLinkLost) {
		err = nil // the agent did it when it lost us
	}
	return errors.Join(err, x.agent.Close())
}

// NBDURI is what NBD clients call an export at an address: a unix socket's path or host:port.
func NBDURI(network, addr, export string) string {
	escape := strings.NewReplacer("%", "%25", "?", "%3F", "#", "%23", "&", "%26", " ", "%20", "+", "%2B")
	if network == "unix" {
		return "nbd+unix:///" + escape.Replace(export) + "?socket=" + escape.Replace(addr)
	}
	return "nbd://" + addr + "/" + escape.Replace(export)
}
