package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vmmigrate/vmmigrate/testenv/internal/control"
	"github.com/vmmigrate/vmmigrate/testenv/internal/layout"
	"github.com/vmmigrate/vmmigrate/testenv/internal/owner"
	"github.com/vmmigrate/vmmigrate/testenv/internal/wire"
	"github.com/vmmigrate/vmmigrate/testenv/link"
	"github.com/vmmigrate/vmmigrate/testenv/pki"
)

// lab is a lab that is up or coming up, in the daemon's process.
type lab struct {
	log     *slog.Logger
	logFile *os.File
	plan    layout.Plan
	state   State

	wire   *wire.Wire
	server *control.Server
	tell   func(string, ...any) // reports progress

	mu    sync.Mutex
	hosts map[string]*hostProc
	links map[string]linkState

	guests *guests
}

// linkState is what was last asked of a host's link.
type linkState struct {
	Spec link.Spec
	Cut  bool
}

// build brings the lab up, step by step. What it leaves when it fails is undone by
// the end of the process. Building ends with ctx; what then serves the lab, with
// life.
func (l *lab) build(ctx, life context.Context) error {
	self, err := owner.Self()
	if err != nil {
		return err
	}
	// First of all: from here on the lab can be found and ended.
	l.state.Daemon = self
	if err := WriteState(l.plan.StateFile(), l.state); err != nil {
		return err
	}
	if l.wire, err = wire.New(l.log); err != nil {
		return err
	}
	if err := l.wire.AttachClient("/proc/thread-self/ns/net"); err != nil {
		return fmt.Errorf("connect the client: %w", err)
	}
	l.tell("network: %s for migration, client %s for guests", l.plan.Hosts[0].Address.Masked(), layout.ClientAddress.Addr())
	ca, err := makeAuthority(l.plan)
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, h := range l.plan.Hosts {
		g.Go(func() error { return l.addHost(gctx, ca, h) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	l.state.Ready = true // before anyone can ask; the file says so when all can
	if l.server, err = control.Serve(life, l.plan.ControlSocket(), l.handle); err != nil {
		return err
	}
	return WriteState(l.plan.StateFile(), l.state)
}

// addHost starts one host and waits for its libvirtd.
func (l *lab) addHost(ctx context.Context, ca *pki.CA, h layout.Host) error {
	p, err := startHost(l.plan, h, l.logFile)
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.hosts[h.Name] = p
	l.links[h.Name] = linkState{Spec: l.plan.Link}
	l.mu.Unlock()
	if err := InstallPKI(ca, h, time.Time{}); err != nil {
		return err
	}
	if err := p.setup(ctx, l.plan); err != nil {
		return err
	}
	id, _ := p.status()
	if err := l.wire.AttachHost(h, fmt.Sprintf("/proc/%d/ns/net", id.PID)); err != nil {
		return err
	}
	if err := l.wire.Shape(h.Name, l.plan.Link); err != nil {
		return err
	}
	what := "no libvirtd"
	if !l.plan.Bare {
		what = "libvirtd answers"
		if err := p.launch(ctx); err != nil {
			return err
		}
	}
	l.mu.Lock()
	l.state.Hosts[h.Name] = id
	l.mu.Unlock()
	l.tell("host %s: %s, link %s, %s", h.Name, h.Address.Addr(), l.plan.Link, what)
	return nil
}

// host returns a running host.
func (l *lab) host(name string) (*hostProc, error) {
	if _, err := l.plan.Host(name); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.hosts[name]
	if p == nil {
		return nil, errHostGone
	}
	return p, nil
}

// close ends what the kernel would also end, in order.
func (l *lab) close() error {
	var errs []error
	if l.server != nil {
		errs = append(errs, l.server.Close())
	}
	l.guests.close()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.hosts {
		p.kill()
	}
	if l.wire != nil {
		errs = append(errs, l.wire.Close())
	}
	// The guests that had them are gone.
	errs = append(errs, l.guests.pages.ReturnAll())
	return errors.Join(errs...)
}
