package libvirthost

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/digitalocean/go-libvirt"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// reply is what a phase answers: a cookie for the next one, and a text.
type reply struct {
	cookie []byte
	text   string
}

// Begin takes libvirt's migration job of the domain and reads its description. The guest is not touched; Confirm with
// landed=false gives the job back, and so does closing the connection.
func (h *Host) Begin(ctx context.Context, name string, p migrate.Params) (migrate.Offer, error) {
	if err := refuse(p); err != nil {
		return migrate.Offer{}, err
	}
	d, err := h.lookup(ctx, name)
	if err != nil {
		return migrate.Offer{}, migrate.Fail("begin the migration", migrate.SideSource, err, "")
	}
	o := migrate.Offer{Name: d.Name, UUID: formatUUID(d.UUID)}
	r, err := do(ctx, h.c, func(l *libvirt.Libvirt) (reply, error) {
		params := paramsOf(p, destName(o, p), p.DestinationXML, p.MigrateURI)
		cookie, xml, err := l.DomainMigrateBegin3Params(d, params, uint32(sourceFlags(p, false)))
		return reply{cookie, xml}, err
	})
	if err != nil {
		return migrate.Offer{}, stepFail("begin the migration", migrate.SideSource, err)
	}
	h.held.set(d, hold{stageBegun, sourceFlags(p, false)})
	o.XML, o.Cookie, o.Definition = r.text, r.cookie, p.PersistentXML
	if p.Persistent && o.Definition == "" {
		o.Definition, err = slowLook(ctx, h.c, func(l *libvirt.Libvirt) (string, error) {
			return l.DomainGetXMLDesc(d, libvirt.DomainXMLInactive|libvirt.DomainXMLSecure|libvirt.DomainXMLMigratable)
		})
		if err != nil {
			return o, stepFail("read the definition", migrate.SideSource, err)
		}
	}
	if !p.Resume {
		// A guest that its owner has paused must stay so at the destination. It cannot be paused or resumed any more.
		s, err := h.glance(ctx, d)
		if err != nil {
			return o, stepFail("see whether the guest is paused", migrate.SideSource, err)
		}
		o.Paused = s.state == libvirt.DomainPaused
		h.held.set(d, hold{stageBegun, sourceFlags(p, o.Paused)})
	}
	return o, nil
}

// Prepare starts a QEMU that waits for the guest. libvirt ties it to this connection: when that closes before Finish,
// libvirt removes it.
func (h *Host) Prepare(ctx context.Context, o migrate.Offer, p migrate.Params) (migrate.Ticket, error) {
	if p.Resume {
		if err := h.CanResume(ctx); err != nil {
			return migrate.Ticket{}, err
		}
	}
	r, err := do(ctx, h.c, func(l *libvirt.Libvirt) (reply, error) {
		params := paramsOf(p, destName(o, p), o.XML, p.MigrateURI)
		cookie, uri, err := l.DomainMigratePrepare3Params(params, o.Cookie, uint32(destFlags(p, o.Paused)))
		if len(uri) > 0 {
			return reply{cookie, uri[0]}, err
		}
		return reply{cookie, p.MigrateURI}, err
	})
	if err != nil {
		return migrate.Ticket{}, stepFail("start the destination's QEMU", migrate.SideDestination, err)
	}
	if r.text == "" {
		return migrate.Ticket{}, &migrate.OpError{Op: "start the destination's QEMU", Side: migrate.SideDestination,
			Err: errors.New("libvirt did not say where it listens"), Fix: "name the address with MIGRATEURI (tcp://HOST)"}
	}
	h.gave.give(destName(o, p), r.cookie)
	return migrate.Ticket{URI: r.text, Cookie: r.cookie}, nil
}

// CanResume tells whether this host, as a destination, can recover a post-copy migration that is paused. libvirt 11.2
// and 11.3 crash when they are asked to (libvirt's release notes of 11.4.0), so they are not asked.
func (h *Host) CanResume(ctx context.Context) error {
	const op = "take a paused post-copy up again"
	n, err := look(ctx, h.c, (*libvirt.Libvirt).ConnectGetLibVersion)
	if err != nil {
		return stepFail(op, migrate.SideDestination, err)
	}
	v := version(n)
	if crashesOnResume(v) {
		return &migrate.OpError{Op: op, Side: migrate.SideDestination,
			Err: fmt.Errorf("libvirt %d.%d.%d crashes on it: %w", v.Major, v.Minor, v.Micro, migrate.ErrNotSupported),
			Fix: "update libvirt on " + h.t.raw + " to 11.4 or later and restart its daemon (guests go on), then recover again"}
	}
	return nil
}

func crashesOnResume(v migrate.Version) bool {
	return !v.Less(migrate.Version{Major: 11, Minor: 2}) && v.Less(migrate.Version{Major: 11, Minor: 4})
}

// Perform moves disks and RAM. It returns nil in a pre-copy once all is sent, and in a post-copy once the source has
// sent its device state; in both the destination does not run before Finish. After a failure libvirt lets the guest
// run on, unless it was in post-copy: that is ErrPaused, and the destination owns it.
func (h *Host) Perform(ctx context.Context, o migrate.Offer, p migrate.Params, t migrate.Ticket) (migrate.Ticket, error) {
	const op = "copy the guest"
	d, err := h.lookup(ctx, o.Name)
	if err != nil {
		return migrate.Ticket{}, migrate.Fail(op, migrate.SideSource, err, "")
	}
	flags := sourceFlags(p, o.Paused)
	begun, disks, err := h.copyParams(ctx, d, p)
	if err != nil {
		return migrate.Ticket{}, migrate.Fail(op, migrate.SideSource, err, "")
	}
	params := append(paramsOf(begun, destName(o, p), o.XML, t.URI), h.thin(ctx, p)...)
	call, watch := h.watchCopies(ctx, d, disks, p, begun, t)
	cookie, err := do(call, h.c, func(l *libvirt.Libvirt) ([]byte, error) {
		h.held.set(d, hold{stagePerforming, flags})
		cookie, err := l.DomainMigratePerform3Params(d, nil, params, t.Cookie, flags)
		if err != nil {
			h.held.drop(d) // libvirt has given the job back
		} else {
			h.held.set(d, hold{stagePerformed, flags})
		}
		return cookie, err
	})
	if err = watch.end(err); err != nil {
		return migrate.Ticket{}, stepFail(op, migrate.SideSource, h.pausedNow(ctx, d, err))
	}
	return migrate.Ticket{URI: t.URI, Cookie: cookie}, nil
}

// thin asks that zeros of some disks are told as zeros that need no space. Without it they take all of their size where the
// images are raw. libvirt knows how since 10.9.
func (h *Host) thin(ctx context.Context, p migrate.Params) []libvirt.TypedParam {
	if len(p.ThinDisks) == 0 {
		return nil
	}
	n, err := look(ctx, h.c, (*libvirt.Libvirt).ConnectGetLibVersion)
	if err != nil || version(n).Less(migrate.Version{Major: 10, Minor: 9}) {
		return nil
	}
	var w wishes
	for _, d := range p.ThinDisks {
		w.string(libvirt.MigrateParamMigrateDisksDetectZeroes, d)
	}
	return w
}

// pausedNow marks err as ErrPaused if the domain waits for the link of its post-copy to be made anew.
func (h *Host) pausedNow(ctx context.Context, d libvirt.Domain, err error) error {
	if ctx.Err() != nil || errors.Is(err, migrate.ErrLinkLost) {
		return err
	}
	if s, serr := h.state(ctx, d); serr == nil && s.Run == migrate.RunPostcopyPaused {
		return kind(migrate.ErrPaused, err)
	}
	return err
}

// Switch has nothing to do: libvirt's Perform sends the device state, and its destination waits for Finish.
func (h *Host) Switch(context.Context, migrate.Offer, migrate.Params) error { return nil }

// Finish lets the guest run at the destination, or removes what Prepare made. See migrate.Destination.
func (h *Host) Finish(ctx context.Context, o migrate.Offer, p migrate.Params, t migrate.Ticket, landed bool) error {
	name, cookie, cancelled := destName(o, p), t.Cookie, int32(0)
	early := h.gave.take(name, t.Cookie)
	var err error
	switch {
	case !landed:
		cookie, cancelled = nil, 1
	case early:
		if cookie, err = earlyCookie(o.Cookie); err != nil {
			return stepFail("run the guest at the destination", migrate.SideDestination, err)
		}
	}
	_, err = do(ctx, h.c, func(l *libvirt.Libvirt) (reply, error) {
		params := paramsOf(p, name, o.XML, t.URI)
		_, cookie, err := l.DomainMigrateFinish3Params(params, cookie, uint32(destFlags(p, o.Paused)), cancelled)
		return reply{cookie, ""}, err
	})
	if landed && early && err == nil {
		h.define(ctx, o, p)
	}
	if landed {
		return stepFail("run the guest at the destination", migrate.SideDestination, h.landing(ctx, name, err))
	}
	return stepFail("remove the destination's QEMU", migrate.SideDestination, h.removed(ctx, name, p, err))
}

// FinishesEarly: libvirt's Finish waits for the guest. In a pre-copy that is of use where somebody else moves the RAM and
// decides when the last of the stream goes through: the guest then runs as soon as its state is loaded. What it lacks without Perform's cookie is the definition of a
// persistent domain, which Begin has put into the offer under the source's name.
func (h *Host) FinishesEarly(p migrate.Params) bool {
	return (p.Strategy.Postcopy() || p.SharedRAM) && !p.Resume && (!p.Persistent || p.DestinationName == "")
}

// define replaces the definition that libvirt has made from the running guest's by the one that was to come along. The
// guest has landed; that its definition could not be replaced is worth a line in the log and no more.
func (h *Host) define(ctx context.Context, o migrate.Offer, p migrate.Params) {
	text := cmp.Or(p.PersistentXML, o.Definition) // the parameters' may have changed since
	if !p.Persistent || text == "" {
		return
	}
	_, err := do(ctx, h.c, func(l *libvirt.Libvirt) (libvirt.Domain, error) { return l.DomainDefineXMLFlags(text, 0) })
	if err != nil {
		h.log.Warn("the guest runs, but its definition is that of the running guest", "domain", o.Name, "err", err)
	}
}

// landing finds out what a failed Finish left: nothing at all, a guest that waits for a link, or something that only
// the caller can judge.
func (h *Host) landing(ctx context.Context, name string, err error) error {
	if err == nil || ctx.Err() != nil || errors.Is(err, migrate.ErrLinkLost) {
		return err
	}
	s, serr := h.State(ctx, name)
	switch {
	case errors.Is(serr, migrate.ErrNoDomain), serr == nil && s.Run == migrate.RunStopped:
		return kind(migrate.ErrNotLanded, err)
	case serr == nil && s.Run == migrate.RunPostcopyPaused:
		return kind(migrate.ErrPaused, err)
	}
	return err
}

// removed judges a Finish that was told to remove the domain. libvirt answers that with an error in any case; what
// counts is whether something is left.
func (h *Host) removed(ctx context.Context, name string, p migrate.Params, err error) error {
	if ctx.Err() != nil || errors.Is(err, migrate.ErrLinkLost) || errors.Is(err, migrate.ErrNoDomain) {
		return kindUnless(migrate.ErrNoDomain, err)
	}
	s, serr := h.State(ctx, name)
	switch {
	case errors.Is(serr, migrate.ErrNoDomain), serr == nil && s.Run == migrate.RunStopped:
		return nil
	case serr != nil:
		return serr
	case p.Resume && s.Run == migrate.RunPostcopyPaused:
		return nil // a recovery that failed leaves it waiting for the next
	}
	return fmt.Errorf("the domain is still there and %s (%s)", s.Run, s.Reason)
}

// kindUnless gives nil for an error of a kind that is welcome.
func kindUnless(welcome, err error) error {
	if errors.Is(err, welcome) {
		return nil
	}
	return err
}

// Confirm releases the source, or lets the guest run on there; where it does already, that is no error. libvirt's own client hands over Finish's cookie here;
// it holds nothing but figures, which the destination keeps as well, so it is left out.
func (h *Host) Confirm(ctx context.Context, o migrate.Offer, p migrate.Params, t migrate.Ticket, landed bool) error {
	const op = "release the source"
	d, err := h.lookup(ctx, o.Name)
	if err != nil {
		return migrate.Fail(op, migrate.SideSource, err, "")
	}
	err = h.confirm(ctx, d, paramsOf(p, destName(o, p), o.XML, t.URI), sourceFlags(p, o.Paused), landed)
	if !landed && h.ranOn(ctx, d, err) {
		return nil
	}
	return stepFail(op, migrate.SideSource, err)
}

// ranOn tells that libvirt refused to give a migration's job back because there is none any more, as after Cancel, and that the
// guest is not left standing still for it.
func (h *Host) ranOn(ctx context.Context, d libvirt.Domain, err error) bool {
	if code(err) != libvirt.ErrOperationInvalid {
		return false
	}
	s, serr := h.state(ctx, d)
	if serr != nil || s.Job || s.Run != migrate.RunRunning && s.Run != migrate.RunPaused {
		return false
	}
	h.held.drop(d)
	return true
}

// MigratePeer lets the source's daemon drive the whole migration to destURI, which that daemon must be able to reach.
func (h *Host) MigratePeer(ctx context.Context, name string, p migrate.Params, destURI string) error {
	const op = "migrate from daemon to daemon"
	if err := refuse(p); err != nil {
		return err
	}
	d, err := h.lookup(ctx, name)
	if err != nil {
		return migrate.Fail(op, migrate.SideSource, err, "")
	}
	if p.PeerURI != "" {
		destURI = p.PeerURI
	}
	begun, disks, err := h.copyParams(ctx, d, p)
	if err != nil {
		return migrate.Fail(op, migrate.SideSource, err, "")
	}
	params := append(paramsOf(begun, p.DestinationName, p.DestinationXML, p.MigrateURI), h.thin(ctx, p)...)
	call, watch := h.watchCopies(ctx, d, disks, p, begun, migrate.Ticket{})
	_, err = do(call, h.c, func(l *libvirt.Libvirt) ([]byte, error) {
		return l.DomainMigratePerform3Params(d, libvirt.OptString{destURI}, params, nil, flagsOf(p)|libvirt.MigratePeer2peer)
	})
	if err = watch.end(err); err == nil {
		return nil
	}
	return stepFail(op, migrate.SideSource, h.pausedNow(ctx, d, err))
}
