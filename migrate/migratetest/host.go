package migratetest

import (
	"context"
	"fmt"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// Host is one end of a World. It is a migrate.Host, a migrate.Custodian and, as far as cancelling goes, a
// migrate.Steering.
type Host struct {
	w    *World
	side migrate.Side
	uri  string
	// main is the host itself; the others are connections to it that were dialled later.
	main *Host
	age  int // of this connection, in cuts that went before

	cuts  int
	cut   bool
	state *migrate.GuestState
	// fails makes the named repair fail: resume, release, discard, cancel.
	fails map[string]error
	alien bool
}

var (
	_ migrate.Host      = (*Host)(nil)
	_ migrate.Custodian = (*Host)(nil)
	_ migrate.Steering  = (*Host)(nil)
)

// Cut takes all connections to the host away for good, and lets nobody dial it until it is called with false.
func (h *Host) Cut(cut bool) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	h.main.cut = cut
	if cut {
		h.main.cuts++
	}
}

// Set puts the guest into a state; empty removes it.
func (h *Host) Set(run migrate.RunState) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	h.w.set(h.main, run)
}

// SetJob says whether a migration job is active on the guest.
func (h *Host) SetJob(job bool) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	if h.main.state != nil {
		s := *h.main.state
		s.Job = job
		h.main.state = &s
	}
}

// Alien has another domain of the guest's name run here.
func (h *Host) Alien() {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	h.main.alien = true
}

// guestUUID is the guest's, on every host.
const guestUUID = "6f3e4f2a-0c9b-4a61-9d53-0a1c2b3d4e5f"

// Run is the guest's state; empty if there is none.
func (h *Host) Run() migrate.RunState {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	if h.main.state == nil {
		return ""
	}
	return h.main.state.Run
}

// Fail makes a repair fail from now on: resume, release, discard or cancel. Nil lets it work again.
func (h *Host) Fail(what string, err error) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	if h.main.fails == nil {
		h.main.fails = map[string]error{}
	}
	h.main.fails[what] = err
}

func (h *Host) dial() (*Host, error) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	n := &Host{w: h.w, side: h.side, uri: h.uri, main: h.main, age: h.main.cuts}
	return n, n.cutErr()
}

func (h *Host) broken() error {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	return h.cutErr()
}

func (h *Host) cutErr() error {
	if h.main.cut || h.age != h.main.cuts {
		return fmt.Errorf("%s: %w", h.uri, migrate.ErrLinkLost)
	}
	return nil
}

// URI is fake:///a or fake:///b.
func (h *Host) URI() string { return h.uri }

// Facts has a host UUID and a clock that agrees with everybody's.
func (h *Host) Facts(context.Context) (migrate.HostFacts, error) {
	if err := h.broken(); err != nil {
		return migrate.HostFacts{}, err
	}
	now := time.Now()
	return migrate.HostFacts{Driver: "fake", Hostname: string(h.side), HostUUID: "host-" + string(h.side), KnowsUUIDs: true, Clock: now, Asked: now}, nil
}

// Domain describes the guest: 1 GiB of RAM and one disk.
func (h *Host) Domain(ctx context.Context, name string) (migrate.DomainFacts, error) {
	st, err := h.State(ctx, name)
	if err != nil {
		return migrate.DomainFacts{}, err
	}
	return migrate.DomainFacts{Name: name, UUID: guestUUID, State: st, Memory: 1 << 30, VCPUs: 1,
		Disks: []migrate.Disk{{Target: "vda", Path: "/images/" + name, Kind: "file", Format: "qcow2", Capacity: 256 << 20}}}, nil
}

// State tells how the guest is here.
func (h *Host) State(_ context.Context, name string) (migrate.GuestState, error) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	if err := h.cutErr(); err != nil {
		return migrate.GuestState{}, err
	}
	if h.main.alien && name == h.w.domain {
		return migrate.GuestState{Run: migrate.RunRunning}, nil
	}
	if name != h.w.domain && name != guestUUID || h.main.state == nil {
		return migrate.GuestState{}, fmt.Errorf("%s on %s: %w", name, h.uri, migrate.ErrNoDomain)
	}
	return *h.main.state, nil
}

// Close does nothing: the host outlives its connections.
func (h *Host) Close() error { return nil }

// ResumeGuest runs a guest that stands still here.
func (h *Host) ResumeGuest(context.Context, string) error {
	return h.repair("resume", func() error {
		if h.main.state == nil {
			return migrate.ErrNoDomain
		}
		if src := h.w.Source.state; h.main == h.w.Dest && src != nil && src.Run == migrate.RunPostcopy {
			h.w.set(h.main, migrate.RunPostcopy)
			return nil
		}
		h.w.set(h.main, migrate.RunRunning)
		return nil
	})
}

// Release removes the guest's leftover and refuses one that runs.
func (h *Host) Release(_ context.Context, _ string, _ bool) error {
	return h.repair("release", func() error {
		if h.main.state != nil && h.main.state.Run == migrate.RunRunning {
			return fmt.Errorf("it runs: %w", migrate.ErrNotSupported)
		}
		h.w.set(h.main, "")
		return nil
	})
}

// Discard removes a guest that waits and refuses any other.
func (h *Host) Discard(context.Context, string) error {
	return h.repair("discard", func() error {
		if h.main.state != nil && h.main.state.Run != migrate.RunIncoming {
			return fmt.Errorf("it is %s: %w", h.main.state.Run, migrate.ErrNotSupported)
		}
		h.w.set(h.main, "")
		return nil
	})
}

// Cancel ends the job.
func (h *Host) Cancel(context.Context, string) error {
	return h.repair("cancel", func() error {
		if h.main.state != nil {
			h.w.set(h.main, migrate.RunRunning)
		}
		return nil
	})
}

// Stats has nothing to tell: figures come through the session.
func (h *Host) Stats(context.Context, string) (migrate.Stats, error) {
	return migrate.Stats{}, h.broken()
}

// Tune, StartPostcopy and Pause do nothing.
func (h *Host) Tune(context.Context, string, migrate.Tuning) error { return h.broken() }

// StartPostcopy does nothing.
func (h *Host) StartPostcopy(context.Context, string) error { return h.broken() }

// Pause does nothing.
func (h *Host) Pause(context.Context, string) error { return h.broken() }

func (h *Host) repair(what string, f func() error) error {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	h.w.did(what + " " + string(h.side))
	if err := h.cutErr(); err != nil {
		return err
	}
	if err := h.main.fails[what]; err != nil {
		return err
	}
	return f()
}
