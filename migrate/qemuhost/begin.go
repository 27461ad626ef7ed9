package qemuhost

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// Begin describes the guest and refuses what cannot migrate. It changes nothing in QEMU; the settings that Perform will
// overwrite travel in the Offer.
func (h *Host) Begin(ctx context.Context, name string, p migrate.Params) (migrate.Offer, error) {
	o, err := h.begin(ctx, name, p)
	return o, fail("begin the migration", migrate.SideSource, err, "")
}

func (h *Host) begin(ctx context.Context, name string, p migrate.Params) (migrate.Offer, error) {
	if err := h.find(name, migrate.SideSource); err != nil {
		return migrate.Offer{}, err
	}
	if err := validate(p, h.c.Version()); err != nil {
		return migrate.Offer{}, err
	}
	live, err := h.readyToSend(ctx, p.Resume)
	if err != nil {
		return migrate.Offer{}, err
	}
	g, err := h.describe(ctx)
	if err != nil {
		return migrate.Offer{}, err
	}
	if _, err := chooseDisks(g.Disks, p); err != nil {
		return migrate.Offer{}, err
	}
	now, err := h.current(ctx)
	if err != nil {
		return migrate.Offer{}, err
	}
	_, ack := now.Caps[qmp.CapSwitchoverAck]
	cookie := offerCookie{Version: cookieVersion, Live: live, Ack: ack,
		Saved: h.remember(migrate.SideSource, now.only(sourceSettings(p, ack, p.TLS, "")), p.Resume)}
	return makeOffer(g, cookie)
}

func makeOffer(g guest, c offerCookie) (migrate.Offer, error) {
	o := migrate.Offer{Name: g.Name, UUID: g.UUID, Paused: !c.Live}
	var err error
	if o.XML, err = g.encode(); err != nil {
		return o, err
	}
	o.Cookie, err = json.Marshal(c)
	return o, err
}

// remember keeps what is to be restored when no Offer or Ticket is at hand. A recovery keeps what was found before the
// migration that it recovers, if this Host saw it begin; else it restores nothing.
func (h *Host) remember(side migrate.Side, found settings, resume bool) settings {
	h.mu.Lock()
	defer h.mu.Unlock()
	if resume {
		if before, ok := h.saved[side]; ok {
			return before
		}
		return newSettings()
	}
	if h.saved == nil {
		h.saved = map[migrate.Side]settings{}
	}
	h.saved[side], h.switched, h.through, h.copies = found, false, false, nil
	return found
}

// forget drops what was remembered of a migration that is over, once it is restored.
func (h *Host) forget(side migrate.Side) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.saved, side)
	if side == migrate.SideSource {
		h.switched, h.through = false, false
	}
}

// readyToSend tells whether the guest runs, or why it cannot be sent from here.
func (h *Host) readyToSend(ctx context.Context, resume bool) (live bool, err error) {
	run, m, err := h.look(ctx)
	if err != nil {
		return false, err
	}
	if resume {
		return true, readyToRecover(m)
	}
	const op = "look at the guest"
	if len(m.BlockedReasons) > 0 {
		return false, refuse(op, migrate.SideSource, "QEMU cannot migrate it: "+strings.Join(m.BlockedReasons, "; "),
			"unplug the device that is named, or shut the guest down and move it cold")
	}
	if !terminal(m.Status) {
		return false, &migrate.OpError{Op: op, Side: migrate.SideSource,
			Err: fmt.Errorf("a migration is %s: %w", m.Status, migrate.ErrBusy), Fix: "wait for it, or cancel it"}
	}
	switch run {
	case qmp.StateRunning:
		return true, nil
	case qmp.StatePaused, qmp.StateSuspended, qmp.StatePreLaunch:
		return false, nil
	case qmp.StateInMigrate:
		return false, refuse(op, migrate.SideSource, "it waits for a migration itself", "swap source and destination")
	case qmp.StatePostMigrate:
		return false, refuse(op, migrate.SideSource, "it was sent away already", "end this QEMU, or run the guest here again with vmmigrate recover")
	}
	return false, refuse(op, migrate.SideSource, "it is "+string(run), "bring the guest to run first")
}

// readyToRecover fails unless a post-copy waits for its link.
func readyToRecover(m qmp.MigrationInfo) error {
	if m.Status == qmp.MigrationPostcopyPaused {
		return nil
	}
	status := m.Status
	if untouched(status) {
		status = qmp.MigrationNone
	}
	return refuse("look for a paused post-copy", migrate.SideSource, "the migration's status is "+string(status),
		"only a post-copy whose link broke can be recovered; vmmigrate status shows what runs where")
}
