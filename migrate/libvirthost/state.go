package libvirthost

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/digitalocean/go-libvirt"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// job is what libvirt says of a domain's job.
type job uint8

// The jobs. jobUnknown stands for a domain that is so busy that it does not even tell, which is a job too.
const (
	jobNone job = iota + 1
	jobOther
	jobIncoming
	jobUnknown
)

// pausedWords and the other lists are libvirt's names of the reasons, by number.
var (
	runningWords = []string{"", "booted", "migrated", "restored", "from-snapshot", "unpaused", "migration-canceled",
		"save-canceled", "wakeup", "crashed", "postcopy", "postcopy-failed"}
	pausedWords = []string{"", "user", "migration", "save", "dump", "io-error", "watchdog", "from-snapshot",
		"shutting-down", "snapshot", "crashed", "starting-up", "postcopy", "postcopy-failed", "api-error"}
	shutoffWords = []string{"", "shutdown", "destroyed", "crashed", "migrated", "saved", "failed", "from-snapshot", "daemon"}
)

func word(words []string, i int32) string {
	if i >= 0 && int(i) < len(words) {
		return words[i]
	}
	return fmt.Sprintf("reason-%d", i)
}

// seen is what libvirt says of a domain: its state, the reason for it, and its job.
type seen struct {
	state  libvirt.DomainState
	reason int32
	job    job
}

// guest gives the meaning of it. The package comment has the table.
func (s seen) guest() (migrate.GuestState, error) {
	g := migrate.GuestState{Job: s.job != jobNone}
	switch s.state {
	case libvirt.DomainRunning, libvirt.DomainBlocked:
		g.Run, g.Reason = s.running(), "running/"+word(runningWords, s.reason)
	case libvirt.DomainPaused:
		g.Run, g.Reason = s.paused(), "paused/"+word(pausedWords, s.reason)
	case libvirt.DomainShutdown:
		g.Run, g.Reason = migrate.RunRunning, "shutting down"
	case libvirt.DomainShutoff:
		g.Run, g.Reason = migrate.RunStopped, "shut off/"+word(shutoffWords, s.reason)
	case libvirt.DomainCrashed:
		g.Run, g.Reason = migrate.RunCrashed, "crashed"
	case libvirt.DomainPmsuspended:
		g.Run, g.Reason = migrate.RunPaused, "pm-suspended"
	default:
		return g, fmt.Errorf("libvirt gives the state %d, which says nothing", s.state)
	}
	return g, nil
}

func (s seen) running() migrate.RunState {
	switch libvirt.DomainRunningReason(s.reason) {
	case libvirt.DomainRunningPostcopy:
		return migrate.RunPostcopy
	case libvirt.DomainRunningPostcopyFailed:
		return migrate.RunPostcopyPaused
	}
	return migrate.RunRunning
}

func (s seen) paused() migrate.RunState {
	switch r := libvirt.DomainPausedReason(s.reason); {
	case r == libvirt.DomainPausedPostcopyFailed:
		return migrate.RunPostcopyPaused
	case r == libvirt.DomainPausedPostcopy:
		return migrate.RunPostcopy
	case s.job == jobIncoming:
		return migrate.RunIncoming
	case r == libvirt.DomainPausedMigration:
		return migrate.RunMigrated
	case r == libvirt.DomainPausedCrashed:
		return migrate.RunCrashed
	}
	return migrate.RunPaused
}

// State tells whether the domain runs here. It answers at once also while a job holds the domain.
func (h *Host) State(ctx context.Context, name string) (migrate.GuestState, error) {
	d, err := h.lookup(ctx, name)
	if err != nil {
		return migrate.GuestState{}, err
	}
	s, err := h.state(ctx, d)
	return s, lookFail("ask %s for the state of %q", []any{h.t.raw, name}, err)
}

func (h *Host) state(ctx context.Context, d libvirt.Domain) (migrate.GuestState, error) {
	s, err := h.see(ctx, d)
	if err != nil {
		return migrate.GuestState{}, err
	}
	return s.guest()
}

// glance reads state and reason, which libvirt tells at any time.
func (h *Host) glance(ctx context.Context, d libvirt.Domain) (seen, error) {
	return look(ctx, h.c, func(l *libvirt.Libvirt) (seen, error) {
		s, r, err := l.DomainGetState(d, 0)
		return seen{state: libvirt.DomainState(s), reason: r}, err
	})
}

// see reads state and job. The job is asked for between two looks at the state, until both agree: a state from before
// a switch together with a job from after it would be a lie.
func (h *Host) see(ctx context.Context, d libvirt.Domain) (seen, error) {
	s, err := h.glance(ctx, d)
	if err != nil {
		return s, err
	}
	for range 5 {
		j, err := h.job(ctx, d, s.state)
		if err != nil {
			return s, err
		}
		again, err := h.glance(ctx, d)
		if err != nil {
			return s, err
		}
		if again == s {
			s.job = j
			return s, nil
		}
		s = again
	}
	s.job = jobUnknown
	return s, nil
}

// jobPatience is how long a domain may take to tell of its job before it counts as busy. libvirt itself waits 30 s.
const jobPatience = 2 * time.Second

// job asks for the domain's job. At the destination of a migration libvirt refuses the question ("migration statistics
// are available only on the source host"), and a refusal for a domain that is not shut off has no other meaning.
func (h *Host) job(ctx context.Context, d libvirt.Domain, state libvirt.DomainState) (job, error) {
	if state == libvirt.DomainShutoff {
		return jobNone, nil
	}
	short, cancel := context.WithTimeout(ctx, h.patience)
	defer cancel()
	typ, _, err := h.jobStats(short, d, 0)
	switch {
	case err == nil && libvirt.DomainJobType(typ) == libvirt.DomainJobNone:
		return jobNone, nil
	case err == nil:
		return jobOther, nil
	case code(err) == libvirt.ErrOperationUnsupported, code(err) == libvirt.ErrOperationInvalid:
		return jobIncoming, nil
	case ctx.Err() == nil && (short.Err() != nil || errors.Is(err, migrate.ErrBusy)):
		return jobUnknown, nil
	}
	return 0, err
}
