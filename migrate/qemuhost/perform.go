package qemuhost

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// copying is a Perform under way.
type copying struct {
	cancel context.CancelCauseFunc
	done   chan struct{}
}

// Perform mirrors the disks, moves the RAM and returns with the guest standing still at pre-switchover: the disks are
// exact copies then, and only Switch is left. With Params.SharedRAM and no disks it goes on and returns when all is sent: who
// moves the RAM holds the stream back as long as he needs, and every question to QEMU would be part of the pause. When it fails, or Cancel ended it, everything is taken back and the guest
// runs as before. When ctx ends it only stops waiting, as its contract says; Cancel takes back what goes on then.
func (h *Host) Perform(ctx context.Context, o migrate.Offer, p migrate.Params, t migrate.Ticket) (migrate.Ticket, error) {
	const op = "move the guest"
	if err := h.find(o.Name, migrate.SideSource); err != nil {
		return t, err
	}
	own, run, err := h.startCopying(ctx)
	if err != nil {
		return t, fail(op, migrate.SideSource, err, "")
	}
	defer h.endCopying(run)
	if p.Resume {
		return t, fail("recover the post-copy", migrate.SideSource, h.recoverLink(own, p, t), "")
	}
	saved, err := readOffer(o)
	if err != nil {
		return t, fail(op, migrate.SideSource, err, "")
	}
	out, err := h.perform(own, p, t, saved)
	switch cancelled := errors.Is(context.Cause(own), migrate.ErrCancelled); {
	case err == nil:
		return out, nil
	case cancelled:
		err = migrate.ErrCancelled
	case errors.Is(err, migrate.ErrOwnerUnknown): // somebody else drove it on: nothing here is ours to take back
		return t, &migrate.OpError{Op: op, Side: migrate.SideSource, Owner: migrate.OwnerUnknown, Err: err, Fix: "ask both ends: vmmigrate recover"}
	case ctx.Err() != nil:
		return t, fail(op, migrate.SideSource, err, "")
	}
	return t, h.giveUp(ctx, op, err, saved)
}

// startCopying claims the Host for one Perform. The context it returns also ends with Cancel.
func (h *Host) startCopying(ctx context.Context) (context.Context, *copying, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.copying != nil {
		return nil, nil, migrate.ErrBusy
	}
	own, cancel := context.WithCancelCause(ctx)
	h.copying = &copying{cancel: cancel, done: make(chan struct{})}
	return own, h.copying, nil
}

func (h *Host) endCopying(c *copying) {
	h.mu.Lock()
	h.copying = nil
	h.mu.Unlock()
	c.cancel(nil)
	close(c.done)
}

// giveUp takes a failed Perform back. The guest belongs to the source: the destination runs nothing before Finish.
func (h *Host) giveUp(ctx context.Context, op string, err error, saved offerCookie) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.grace)
	defer cancel()
	back := h.takeBack(ctx, saved)
	if back != nil {
		h.log.Warn("a failed migration could not be taken back", "err", back)
	}
	return &migrate.OpError{Op: op, Side: migrate.SideSource, Owner: migrate.OwnerSource, Err: errors.Join(err, back), Fix: migrate.FixOf(err)}
}

func (h *Host) perform(ctx context.Context, p migrate.Params, t migrate.Ticket, saved offerCookie) (migrate.Ticket, error) {
	c, err := readTicket(t)
	if err != nil {
		return t, err
	}
	to, err := parseEndpoint(t.URI)
	if err != nil {
		return t, err
	}
	if err := h.setUp(ctx, p, c, to); err != nil {
		return t, err
	}
	defer h.endCopies()
	if err := h.mirror(ctx, c, p, tlsHost(p, to)); err != nil {
		return t, err
	}
	if err := qmp.Migrate(ctx, h.c, qmp.MigrateArgs{URI: to.qemu()}); err != nil {
		return t, migrate.Fail("start the migration to "+t.URI, migrate.SideSource, err, "")
	}
	move := h.standStill
	if p.SharedRAM && len(c.Disks) == 0 {
		move = h.goThrough
	}
	live, err := move(ctx, c, saved.Live)
	if err != nil {
		return t, err
	}
	c.Live = &live
	t.Cookie, err = json.Marshal(c)
	return t, err
}

// standStill copies everything and leaves the guest at pre-switchover.
func (h *Host) standStill(ctx context.Context, c ticketCookie, live bool) (bool, error) {
	live, err := h.copyRAM(ctx, len(c.Disks), live)
	if err != nil {
		return live, err
	}
	if err := h.finishMirrors(ctx, c); err != nil {
		return live, err
	}
	return live, h.stillGood(ctx)
}

// goThrough tells QEMU to go on as soon as it says that the guest stands still, and waits until all is sent. It tells whether
// the guest ran until then.
func (h *Host) goThrough(ctx context.Context, _ ticketCookie, live bool) (bool, error) {
	sub, err := h.c.Subscribe(qmp.SubscribeOptions{Names: []string{eventMigration, eventStop, eventResume}, Queue: 16})
	if err != nil {
		return live, err
	}
	defer sub.Close()
	tick := time.NewTicker(h.poll)
	defer tick.Stop()
	var status qmp.MigrationStatus
	for told, ask := false, true; ; ask = !onTheWay(status) {
		if ask {
			run, m, err := h.look(ctx)
			if err == nil {
				err = through(m)
			}
			if err != nil {
				return live, err
			}
			if run != qmp.StateFinishMigrate && run != qmp.StatePostMigrate {
				live = run == qmp.StateRunning
			}
			status = m.Status
		}
		switch {
		case status == qmp.MigrationCompleted:
			h.mu.Lock()
			h.switched, h.through = true, true
			h.mu.Unlock()
			return live, nil
		case status == qmp.MigrationPreSwitchover && !told:
			if err := h.goOn(ctx); err != nil {
				return live, err
			}
			told = true
		}
		if status, err = h.next(ctx, sub, tick.C); err != nil {
			return live, err
		}
	}
}

// onTheWay tells of a status that says all there is to know.
func onTheWay(status qmp.MigrationStatus) bool {
	return status == qmp.MigrationPreSwitchover || status == qmp.MigrationDevice || status == qmp.MigrationCompleted
}

// next waits until QEMU tells of its migration, or there may be something else to be found out. A stop is most likely the one
// of the switch: QEMU is asked nothing while it brings that about.
func (h *Host) next(ctx context.Context, sub *qmp.Subscription, tick <-chan time.Time) (qmp.MigrationStatus, error) {
	for {
		select {
		case <-tick:
			return "", nil
		case ev, ok := <-sub.C():
			if !ok {
				return "", h.c.lost(sub.Err())
			}
			if ev.Name == eventStop {
				tick = time.After(switchTime)
				continue
			}
			status, _ := ev.MigrationStatus()
			return status, nil
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

// switchTime is how long after a stop QEMU may take to say that it stands at the switch before it is asked what it is doing.
const switchTime = 20 * time.Millisecond

// through fails for a migration that will not come to its end, or not to this one.
func through(m qmp.MigrationInfo) error {
	switch {
	case m.Status == qmp.MigrationFailed, m.Status == qmp.MigrationCancelled, m.Status == qmp.MigrationCancelling:
		return ended(m)
	case inPostcopy(m.Status):
		return fmt.Errorf("the migration went over to %s without being told to: %w", m.Status, migrate.ErrOwnerUnknown)
	}
	return nil
}

// goOn has QEMU send the device state. One that is not asked for it any more says so by its status.
func (h *Host) goOn(ctx context.Context) error {
	if err := qmp.MigrateContinue(ctx, h.c, qmp.MigrationPreSwitchover); err != nil && !refused(err) {
		return err
	}
	return nil
}

// tlsHost is the name that the destination's certificate must carry.
func tlsHost(p migrate.Params, to endpoint) string {
	if p.TLSDestination != "" {
		return p.TLSDestination
	}
	return to.host
}

// setUp makes credentials and sets capabilities and parameters.
func (h *Host) setUp(ctx context.Context, p migrate.Params, c ticketCookie, to endpoint) error {
	if c.TLS != p.TLS {
		return fmt.Errorf("TLS is %t here and %t at the destination", p.TLS, c.TLS)
	}
	if p.TLS {
		if err := h.makeTLS(ctx, "client"); err != nil {
			return err
		}
	}
	now, err := h.current(ctx)
	if err != nil {
		return err
	}
	return h.apply(ctx, now, sourceSettings(p, c.Ack, p.TLS, tlsHost(p, to)))
}

// copyRAM waits until the guest stands still at pre-switchover. It tells whether the guest ran until then, as a user
// may have paused it meanwhile.
func (h *Host) copyRAM(ctx context.Context, mirrors int, live bool) (bool, error) {
	err := h.await(ctx, func(ctx context.Context) (bool, error) {
		run, m, err := h.look(ctx)
		if err != nil {
			return false, err
		}
		switch m.Status {
		case qmp.MigrationPreSwitchover:
			return true, nil
		case qmp.MigrationFailed, qmp.MigrationCancelled, qmp.MigrationCancelling:
			return false, ended(m)
		case qmp.MigrationCompleted, qmp.MigrationPostcopyActive, qmp.MigrationDevice:
			return false, fmt.Errorf("the migration went on to %s without being told to: %w", m.Status, migrate.ErrOwnerUnknown)
		}
		if run != qmp.StateFinishMigrate {
			live = run == qmp.StateRunning
		}
		return false, h.mirrorsLive(ctx, mirrors)
	}, eventMigration, eventStop, eventResume, eventJob)
	return live, err
}

// ended is the error of a migration that came to an end by itself.
func ended(m qmp.MigrationInfo) error {
	switch {
	case m.Status == qmp.MigrationCancelled, m.Status == qmp.MigrationCancelling:
		return migrate.ErrCancelled
	case why(m) != "":
		return migrate.Fail("send the RAM", migrate.SideSource, errors.New(why(m)),
			"is the destination's QEMU alive, and can the source reach it? Its own log says more")
	}
	return fmt.Errorf("QEMU reports %s and no reason", m.Status)
}

// stillGood fails if the link broke while the guest stood still. QEMU notes that but does not act on it; in post-copy
// it would even wedge itself if it were told to go on (see doc.go).
func (h *Host) stillGood(ctx context.Context) error {
	m, err := qmp.QueryMigrate(ctx, h.c)
	switch {
	case err != nil:
		return err
	case m.Status != qmp.MigrationPreSwitchover:
		return ended(m)
	}
	return broken(m)
}

// broken tells what QEMU noted of its link and has not acted upon.
func broken(m qmp.MigrationInfo) error {
	if why(m) == "" {
		return nil
	}
	return ended(qmp.MigrationInfo{Status: qmp.MigrationFailed, ErrorDesc: m.ErrorDesc})
}

// recoverLink makes the source send over a new link. The destination is waiting for it already.
func (h *Host) recoverLink(ctx context.Context, p migrate.Params, t migrate.Ticket) error {
	to, err := parseEndpoint(t.URI)
	if err != nil {
		return err
	}
	if p.TLS {
		// The credentials are still there; only the name may differ.
		if err := qmp.SetMigrateParameters(ctx, h.c, qmp.MigrationParameters{TLSHostname: new(tlsHost(p, to))}); err != nil {
			return err
		}
	}
	if err := qmp.Migrate(ctx, h.c, qmp.MigrateArgs{URI: to.qemu(), Resume: true}); err != nil {
		return err
	}
	start := time.Now()
	return h.await(ctx, func(ctx context.Context) (bool, error) {
		m, err := qmp.QueryMigrate(ctx, h.c)
		if err != nil {
			return false, err
		}
		switch m.Status {
		case qmp.MigrationPostcopyActive, qmp.MigrationCompleted:
			return true, nil
		case qmp.MigrationPostcopyPaused:
			if !h.c.Version().AtLeast(9, 1) && time.Since(start) < h.stuck {
				return false, nil // an older QEMU says so until it is connected
			}
			return false, &migrate.OpError{Op: "connect to the destination again", Side: migrate.SideSource, Owner: migrate.OwnerDestination,
				Err: fmt.Errorf("%w: %s", migrate.ErrPaused, why(m)), Fix: "recover again when the link is back"}
		case qmp.MigrationPostcopyRecover, qmp.MigrationPostcopyRecoverSetup:
			return false, nil
		}
		return false, ended(m)
	}, eventMigration)
}
