package libvirthost

import (
	"context"
	"errors"
	"fmt"

	"github.com/digitalocean/go-libvirt"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// found looks a domain and its state up for a repair.
func (h *Host) found(ctx context.Context, name string) (libvirt.Domain, seen, error) {
	d, err := h.lookup(ctx, name)
	if err != nil {
		return d, seen{}, err
	}
	s, err := h.see(ctx, d)
	return d, s, err
}

// refusal is the error of a repair that the guest's state forbids.
func refusal(g migrate.GuestState, why string) error {
	return fmt.Errorf("refused: the guest is %s (%s): %s", g.Run, g.Reason, why)
}

// busy is the error of a repair while a job holds the domain.
func busy(g migrate.GuestState) error {
	return kind(migrate.ErrBusy, refusal(g, "a job is still active on it"))
}

// ResumeGuest runs a guest that stands still here after a migration away failed. It refuses one that waits for a
// migration here, or whose RAM has begun to live at the destination.
func (h *Host) ResumeGuest(ctx context.Context, name string) error {
	d, s, err := h.found(ctx, name)
	if err == nil {
		err = mayResume(s, h.held.at(d).stage)
	}
	held := false
	if err == nil {
		held, err = h.settle(ctx, d, false)
	}
	if err == nil && !held && s.state == libvirt.DomainPaused {
		_, err = do(ctx, h.c, func(l *libvirt.Libvirt) (struct{}, error) { return struct{}{}, l.DomainResume(d) })
	}
	return stepFail("resume the guest on "+h.t.raw, "", err)
}

// mayResume allows a guest that stands still with no job, or with one that this connection can settle.
func mayResume(s seen, own stage) error {
	g, err := s.guest()
	if err != nil {
		return err
	}
	switch g.Run {
	case migrate.RunRunning:
		return nil
	case migrate.RunPaused, migrate.RunMigrated:
		if g.Job && own != stageBegun && own != stagePerformed {
			return busy(g)
		}
		return nil
	case migrate.RunPostcopy, migrate.RunPostcopyPaused:
		return refusal(g, "the destination owns it; recover the migration")
	case migrate.RunIncoming:
		return refusal(g, "it has never run here")
	}
	return refusal(g, "its process is gone")
}

// Release removes a guest's leftover at the source; ErrNoDomain if there is none.
func (h *Host) Release(ctx context.Context, name string, undefine bool) error {
	d, s, err := h.found(ctx, name)
	own := h.held.at(d).stage
	if err == nil {
		err = mayRelease(s, own)
	}
	held := false
	if err == nil && own == stagePerformed {
		held, err = h.settle(ctx, d, true)
	}
	if err == nil && !held && s.state != libvirt.DomainShutoff {
		err = h.destroy(ctx, d)
	}
	if err == nil && undefine {
		err = h.undefine(ctx, d)
	}
	return stepFail("release the guest on "+h.t.raw, "", err)
}

// mayRelease allows what a source looks like after its state was sent away. A post-copy's source counts too, even
// with its job, which libvirt keeps for a recovery: the caller knows that the destination has all RAM.
func mayRelease(s seen, own stage) error {
	g, err := s.guest()
	if err != nil {
		return err
	}
	switch {
	case g.Run == migrate.RunStopped:
		return nil
	case s.state != libvirt.DomainPaused:
	case g.Run == migrate.RunPostcopyPaused:
		return nil
	case g.Run == migrate.RunMigrated && g.Job && own != stagePerformed:
		return busy(g)
	case g.Run == migrate.RunMigrated:
		return nil
	}
	return refusal(g, "it is not a leftover of a migration")
}

// Discard removes a domain that was prepared here and never ran; ErrNoDomain if there is none. Of one that is defined
// here and shut off nothing is removed.
func (h *Host) Discard(ctx context.Context, name string) error {
	d, s, err := h.found(ctx, name)
	if err == nil {
		err = mayDiscard(s)
	}
	if err == nil && s.state != libvirt.DomainShutoff {
		err = h.destroy(ctx, d)
	}
	return stepFail("discard the guest on "+h.t.raw, "", err)
}

func mayDiscard(s seen) error {
	g, err := s.guest()
	if err == nil && g.Run != migrate.RunIncoming && g.Run != migrate.RunStopped {
		err = refusal(g, "it runs or ran here")
	}
	return err
}

func (h *Host) destroy(ctx context.Context, d libvirt.Domain) error {
	_, err := do(ctx, h.c, func(l *libvirt.Libvirt) (struct{}, error) { return struct{}{}, l.DomainDestroy(d) })
	if errors.Is(err, migrate.ErrNoDomain) {
		return nil
	}
	return err
}

// undefine drops the definition and leaves the guest's files alone.
func (h *Host) undefine(ctx context.Context, d libvirt.Domain) error {
	flags := libvirt.DomainUndefineManagedSave | libvirt.DomainUndefineSnapshotsMetadata |
		libvirt.DomainUndefineCheckpointsMetadata | libvirt.DomainUndefineKeepNvram
	_, err := do(ctx, h.c, func(l *libvirt.Libvirt) (struct{}, error) { return struct{}{}, l.DomainUndefineFlags(d, flags) })
	if errors.Is(err, migrate.ErrNoDomain) {
		return nil // it was not persistent and went with its process
	}
	return err
}
