package testenv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/digitalocean/go-libvirt"

	"github.com/vmmigrate/vmmigrate/testenv/guest"
	"github.com/vmmigrate/vmmigrate/testenv/internal/control"
	"github.com/vmmigrate/vmmigrate/testenv/internal/daemon"
	"github.com/vmmigrate/vmmigrate/testenv/internal/domain"
	"github.com/vmmigrate/vmmigrate/testenv/internal/hugepages"
	"github.com/vmmigrate/vmmigrate/testenv/oracle"
)

// Guest is a guest of the lab, wherever it runs now. It is a handle, as a Lab is.
type Guest struct {
	lab    *Lab
	place  daemon.Guest
	config GuestConfig
}

// StartGuest makes the guest's disks, defines its domain on the host, starts it and
// waits until it answers on the network. In a bare lab it is a QEMU, and its monitor
// (Guest.Monitor) is how to reach it. From then on the lab's daemon watches it
// from the client's side. When it fails, or ctx ends, the guest is removed.
func (l *Lab) StartGuest(ctx context.Context, c GuestConfig) (*Guest, error) {
	c, err := c.withDefaults(l.state.Plan.Hosts[0].Name)
	if err != nil {
		return nil, err
	}
	host, err := l.Host(c.Host)
	if err != nil {
		return nil, err
	}
	g := &Guest{lab: l, config: c}
	args, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("guest %s: %w", c.Name, err)
	}
	if err := l.call(ctx, control.Request{Op: daemon.OpGuestAdd, Guest: c.Name, Args: args}, &g.place); err != nil {
		return nil, fmt.Errorf("guest %s: %w", c.Name, err)
	}
	if err := g.start(ctx, host); err != nil {
		err = fmt.Errorf("start guest %s on host %s: %w", c.Name, c.Host, err)
		return nil, errors.Join(err, g.Remove(context.WithoutCancel(ctx)))
	}
	return g, nil
}

func (g *Guest) start(ctx context.Context, host *Host) error {
	if g.lab.state.Plan.Bare {
		return g.startBare(ctx, host)
	}
	spec, err := g.config.domainSpec(ctx, g.place)
	if err != nil {
		return err
	}
	xml, err := domain.XML(spec)
	if err != nil {
		return err
	}
	if err := g.makeDisks(ctx, host); err != nil {
		return err
	}
	if err := g.borrowPages(ctx); err != nil {
		return err
	}
	err = host.withLibvirt(ctx, func(l *libvirt.Libvirt) error {
		d, err := l.DomainDefineXMLFlags(xml, 0)
		if err != nil {
			return err
		}
		return l.DomainCreate(d)
	})
	if err != nil {
		return err
	}
	return g.watched(ctx, host)
}

// watched waits for a guest that was started and has the daemon watch it.
func (g *Guest) watched(ctx context.Context, host *Host) error {
	if err := g.WaitReady(ctx); err != nil {
		return fmt.Errorf("%w (its console: %s)", err, g.Console(host))
	}
	return g.lab.call(ctx, control.Request{Op: daemon.OpGuestWatch, Guest: g.Name()}, nil)
}

// borrowPages gets the huge pages that the guest needs at both ends of a migration.
func (g *Guest) borrowPages(ctx context.Context) error {
	if g.config.PageSize != hugepages.Size {
		return nil
	}
	if !g.lab.state.Plan.HugePages {
		return errors.New("this kernel has no huge pages of 2 MiB; use pages of 4 KiB")
	}
	args := json.RawMessage(strconv.FormatInt(2*g.config.Memory/hugepages.Size, 10))
	return g.lab.call(ctx, control.Request{Op: daemon.OpGuestPages, Guest: g.Name(), Args: args}, nil)
}

// Guest returns the guest of that name.
func (l *Lab) Guest(ctx context.Context, name string) (*Guest, error) {
	all, err := l.Guests(ctx)
	if err != nil {
		return nil, err
	}
	for _, g := range all {
		if g.Name() == name {
			return g, nil
		}
	}
	return nil, fmt.Errorf("lab %s has no guest %q", l.Name(), name)
}

// Guests returns all guests that StartGuest started, by name.
func (l *Lab) Guests(ctx context.Context) ([]*Guest, error) {
	var places []daemon.Guest
	if err := l.call(ctx, control.Request{Op: daemon.OpGuests}, &places); err != nil {
		return nil, err
	}
	guests := make([]*Guest, 0, len(places))
	for _, p := range places {
		g := &Guest{lab: l, place: p}
		if err := json.Unmarshal(p.Config, &g.config); err != nil {
			return nil, fmt.Errorf("guest %s: %w", p.Name, err)
		}
		guests = append(guests, g)
	}
	return guests, nil
}

// Name is the guest's name and that of its domain.
func (g *Guest) Name() string { return g.place.Name }

// Address is the guest's address on the guests' network.
func (g *Guest) Address() netip.Addr { return g.place.Address.Addr() }

// MAC is its network card's hardware address.
func (g *Guest) MAC() string { return g.place.MAC }

// Config is what it was started with, defaults filled in.
func (g *Guest) Config() GuestConfig { return g.config }

// Console is the log of its serial console on the host, as the machine sees it.
// Each host has the part that was written there.
func (g *Guest) Console(h *Host) string {
	if g.lab.state.Plan.Bare {
		_, path := h.inRun(g.Name() + ".console")
		return path
	}
	return h.host.GuestConsole(g.Name())
}

// Monitor is its second QMP socket on the host, as the machine sees it; it exists
// while the guest runs there, if GuestConfig.Monitor is set.
func (g *Guest) Monitor(h *Host) string { return h.host.GuestMonitor(g.Name()) }

// Accel says what runs the guest: AccelKVM or AccelTCG.
func (g *Guest) Accel(ctx context.Context) (string, error) {
	if g.config.Accel != AccelAuto {
		return g.config.Accel, nil
	}
	return guest.Accel(ctx)
}

// URI is how vmmigrate reaches the guest on the host from this machine: the host's
// libvirt, or in a bare lab the monitor of its QEMU there.
func (g *Guest) URI(h *Host) string {
	if g.lab.state.Plan.Bare {
		return "qemu+qmp://" + g.Monitor(h)
	}
	return h.URI()
}

// OracleAddress is where the guest's oracle answers, as the client's network has it.
func (g *Guest) OracleAddress() string {
	return net.JoinHostPort(g.Address().String(), strconv.Itoa(oracle.Port))
}

// Oracle connects to the guest's oracle from the client's namespace. The caller
// closes it.
func (g *Guest) Oracle(ctx context.Context) (*oracle.Client, error) {
	return oracle.Dial(ctx, g.lab.Client(), g.OracleAddress())
}

// WaitReady returns when the guest's workload runs.
func (g *Guest) WaitReady(ctx context.Context) error {
	c, err := g.Oracle(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	for {
		pong, err := c.Ping(ctx)
		if err != nil {
			return err
		}
		if pong.Ready {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("wait for the guest's workload: %w", context.Cause(ctx))
		}
	}
}

// Remove ends the guest on every host and removes its domain and disks. It is
// idempotent, and goes on with the next host when one fails.
func (g *Guest) Remove(ctx context.Context) error {
	var errs []error
	for _, h := range g.lab.Hosts() {
		if !h.owner.Alive() {
			continue
		}
		if g.lab.state.Plan.Bare {
			errs = append(errs, g.quitQEMU(ctx, h), g.removeDisks(h))
			continue
		}
		errs = append(errs, h.withLibvirt(ctx, func(l *libvirt.Libvirt) error { return undefine(l, g.Name()) }))
		errs = append(errs, g.removeDisks(h))
	}
	errs = append(errs, g.lab.call(ctx, control.Request{Op: daemon.OpGuestRemove, Guest: g.Name()}, nil))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove guest %s: %w", g.Name(), err)
	}
	return nil
}

// undefine ends the domain, if it runs, and forgets it, if it is known.
func undefine(l *libvirt.Libvirt, name string) error {
	d, err := l.DomainLookupByName(name)
	if noDomain(err) {
		return nil
	}
	if err != nil {
		return err
	}
	// It may have ended meanwhile, which is what is wanted.
	_ = l.DomainDestroy(d)
	if err := l.DomainUndefineFlags(d, 0); err != nil && !noDomain(err) {
		return err
	}
	return nil
}
