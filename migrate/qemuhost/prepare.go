package qemuhost

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// Prepare compares this QEMU with the source's and makes it listen. It has to have been started with -incoming defer
// and the source's options. When Prepare fails everything it made is taken back, and the QEMU can be used again.
func (h *Host) Prepare(ctx context.Context, o migrate.Offer, p migrate.Params) (migrate.Ticket, error) {
	var t migrate.Ticket
	err := validate(p, h.c.Version())
	switch {
	case err != nil:
	case p.Resume:
		t, err = h.prepareRecovery(ctx, p)
	default:
		t, err = h.prepare(ctx, o, p)
	}
	return t, fail("prepare the destination", migrate.SideDestination, err, "")
}

func (h *Host) prepare(ctx context.Context, o migrate.Offer, p migrate.Params) (migrate.Ticket, error) {
	cookie, err := readOffer(o)
	if err != nil {
		return migrate.Ticket{}, err
	}
	disks, err := h.fits(ctx, o, p)
	if err != nil {
		return migrate.Ticket{}, err
	}
	now, err := h.current(ctx)
	if err != nil {
		return migrate.Ticket{}, err
	}
	_, ack := now.Caps[qmp.CapSwitchoverAck]
	ack = ack && cookie.Ack
	want := destSettings(p, ack, p.TLS)
	c := ticketCookie{Version: cookieVersion, Saved: h.remember(migrate.SideDestination, now.only(want), false), Ack: ack, TLS: p.TLS}
	u := &undo{h: h}
	t, err := h.listen(ctx, u, p, disks, now, want, c)
	if err != nil {
		return migrate.Ticket{}, errors.Join(err, u.run(ctx))
	}
	return t, nil
}

// fits tells which disks are to be written here, or why the guest cannot come here.
func (h *Host) fits(ctx context.Context, o migrate.Offer, p migrate.Params) ([]disk, error) {
	name := o.Name
	if p.DestinationName != "" {
		name = p.DestinationName
	}
	const op = "look at the destination's QEMU"
	if name != "" && !h.id.matches(name) {
		return nil, refuse(op, migrate.SideDestination, fmt.Sprintf("it is called %q, not %q", h.id.name, name),
			"start it with -name "+name+", or give --dname")
	}
	run, m, err := h.look(ctx)
	if err != nil {
		return nil, err
	}
	if run != qmp.StateInMigrate || !untouched(m.Status) {
		return nil, refuse(op, migrate.SideDestination, fmt.Sprintf("it does not wait for a guest: %s", stateOf(run, m.Status).Reason),
			"start it anew with -incoming defer")
	}
	src, err := decodeGuest(o)
	if err != nil {
		return nil, err
	}
	dst, err := h.describe(ctx)
	if err != nil {
		return nil, err
	}
	if err := compared(compare(src, dst)); err != nil {
		return nil, err
	}
	return pairDisks(src.Disks, dst.Disks, p)
}

// pairDisks gives the destination's own disks for those that the source sends.
func pairDisks(src, dst []disk, p migrate.Params) ([]disk, error) {
	chosen, err := chooseDisks(src, p)
	if err != nil {
		return nil, err
	}
	var out []disk
	for _, s := range chosen {
		for _, d := range dst {
			if d.Target != s.Target {
				continue
			}
			if d.ReadOnly || d.Node == "" {
				return nil, refuse("pair the disks", migrate.SideDestination, "disk "+d.Target+" cannot be written here",
					"start the destination's QEMU with it writable")
			}
			out = append(out, d)
		}
	}
	return out, nil
}

// listen sets QEMU up, step by step, each with its undoing.
func (h *Host) listen(ctx context.Context, u *undo, p migrate.Params, disks []disk, now, want settings, c ticketCookie) (migrate.Ticket, error) {
	bind, announce, err := listener(p.MigrateURI, p.ListenAddress)
	if err != nil {
		return migrate.Ticket{}, err
	}
	// While it waits, stop means: do not run the guest when it has arrived. Only Finish lets it run.
	if err := qmp.Stop(ctx, h.c); err != nil {
		return migrate.Ticket{}, err
	}
	if p.TLS {
		u.push(func(ctx context.Context) error { return h.dropObject(ctx, tlsObject) })
		if err := h.makeTLS(ctx, "server"); err != nil {
			return migrate.Ticket{}, err
		}
	}
	u.push(func(ctx context.Context) error { return h.restore(ctx, c.Saved) })
	if err := h.apply(ctx, now, want); err != nil {
		return migrate.Ticket{}, err
	}
	if len(disks) > 0 {
		if c.NBD, err = h.serveDisks(ctx, u, disks, p, bind, announce); err != nil {
			return migrate.Ticket{}, err
		}
		for _, d := range disks {
			c.Disks = append(c.Disks, d.Target)
		}
	}
	u.push(func(ctx context.Context) error { return h.dropObject(ctx, waitObject) })
	if err := h.markWaiting(ctx); err != nil {
		return migrate.Ticket{}, err
	}
	return h.incoming(ctx, u, bind, announce, c)
}

// markWaiting leaves a sign in QEMU that its guest has never run. Finish takes it away before it lets the guest run.
func (h *Host) markWaiting(ctx context.Context) error {
	if err := h.dropObject(ctx, waitObject); err != nil {
		return err
	}
	return qmp.ObjectAdd(ctx, h.c, "secret", waitObject, map[string]string{"data": "the guest has not run here"})
}

// incoming makes QEMU listen for RAM. Once it does it can only be ended, as it takes a migration in once in its life.
func (h *Host) incoming(ctx context.Context, u *undo, bind, announce endpoint, c ticketCookie) (migrate.Ticket, error) {
	a := qmp.MigrateIncomingArgs{URI: bind.qemu()}
	if h.c.Version().AtLeast(9, 1) {
		a.ExitOnError = new(false) // so that the reason of a failure can be asked for
	}
	if err := qmp.MigrateIncoming(ctx, h.c, a); err != nil {
		return migrate.Ticket{}, migrate.Fail("listen for the guest on "+bind.uri(), migrate.SideDestination, err,
			"free that address or choose another: --migrateuri, --listen-address")
	}
	u.push(h.quit)
	return h.ticket(ctx, announce, c)
}

// ticket tells the source where to send to, with the port that QEMU got.
func (h *Host) ticket(ctx context.Context, announce endpoint, c ticketCookie) (migrate.Ticket, error) {
	if announce.network == "tcp" && announce.port == "0" {
		m, err := qmp.QueryMigrate(ctx, h.c)
		if err != nil {
			return migrate.Ticket{}, err
		}
		if len(m.SocketAddress) == 0 || m.SocketAddress[0].Port == "" {
			return migrate.Ticket{}, errors.New("QEMU does not tell the port that it listens on")
		}
		announce.port = m.SocketAddress[0].Port
	}
	b, err := json.Marshal(c)
	return migrate.Ticket{URI: announce.uri(), Cookie: b}, err
}

// prepareRecovery makes a destination whose post-copy is paused listen again. A destination that has not noticed that
// the link is gone is told.
func (h *Host) prepareRecovery(ctx context.Context, p migrate.Params) (migrate.Ticket, error) {
	if err := h.find("", migrate.SideDestination); err != nil {
		return migrate.Ticket{}, err
	}
	bind, announce, err := listener(p.MigrateURI, p.ListenAddress)
	if err != nil {
		return migrate.Ticket{}, err
	}
	paused := false
	err = h.await(ctx, func(ctx context.Context) (bool, error) {
		m, err := qmp.QueryMigrate(ctx, h.c)
		switch {
		case err != nil:
			return false, err
		case m.Status == qmp.MigrationPostcopyPaused:
			return true, nil
		case !inPostcopy(m.Status):
			return false, readyToRecover(m)
		case paused:
			return false, nil
		}
		paused = true
		return false, ignoreRefusal(qmp.MigratePause(ctx, h.c))
	}, eventMigration)
	if err != nil {
		return migrate.Ticket{}, err
	}
	if err := qmp.MigrateRecover(ctx, h.c, bind.qemu()); err != nil {
		return migrate.Ticket{}, migrate.Fail("listen for the rest of the RAM on "+bind.uri(), migrate.SideDestination, err,
			"free that address or choose another: --migrateuri, --listen-address")
	}
	return h.ticket(ctx, announce, ticketCookie{Version: cookieVersion, Saved: h.remember(migrate.SideDestination, newSettings(), true), TLS: p.TLS})
}

// undo is a stack of steps that take back what was done.
type undo struct {
	h     *Host
	steps []func(context.Context) error
}

func (u *undo) push(step func(context.Context) error) { u.steps = append(u.steps, step) }

// run takes everything back, last first, whatever ctx says; it takes Grace at most. What lived in a QEMU that has quit
// needs no undoing.
func (u *undo) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), u.h.grace)
	defer cancel()
	var errs []error
	for i := len(u.steps) - 1; i >= 0 && !u.h.isGone(); i-- {
		errs = append(errs, u.steps[i](ctx))
	}
	u.steps = nil
	return errors.Join(errs...)
}
