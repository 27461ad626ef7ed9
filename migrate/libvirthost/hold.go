package libvirthost

import (
	"bytes"
	"context"
	"sync"

	"github.com/digitalocean/go-libvirt"
)

// stage is how far a migration away is that this connection drives.
type stage uint8

const (
	stageBegun stage = iota + 1
	stagePerforming
	stagePerformed
)

// hold is a migration job of libvirt's that belongs to this connection, from Begin to Confirm.
type hold struct {
	stage stage
	flags libvirt.DomainMigrateFlags
}

// holds remembers the jobs of one connection. libvirt gives such a job back on Confirm or when the connection closes,
// and on nothing else, so a repair over the same connection has to confirm.
type holds struct {
	mu sync.Mutex
	m  map[libvirt.UUID]hold
	w  map[libvirt.UUID]*copies // the disks of the last migration away, whether or not it goes on
}

func (s *holds) watch(d libvirt.Domain, w *copies) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.w == nil {
		s.w = map[libvirt.UUID]*copies{}
	}
	s.w[d.UUID] = w
}

// watched gives the disks of a domain's last migration away; nil if none was begun over this connection.
func (s *holds) watched(d libvirt.Domain) *copies {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w[d.UUID]
}

func (s *holds) set(d libvirt.Domain, h hold) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil {
		s.m = map[libvirt.UUID]hold{}
	}
	s.m[d.UUID] = h
}

func (s *holds) drop(d libvirt.Domain) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.m, d.UUID)
}

// at gives the hold of a domain; its stage is zero if there is none.
func (s *holds) at(d libvirt.Domain) hold {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.m[d.UUID]
}

// settle ends a job that this connection holds: with landed the source is released, without it the guest runs on.
// held tells whether there was such a job to settle.
func (h *Host) settle(ctx context.Context, d libvirt.Domain, landed bool) (held bool, err error) {
	k := h.held.at(d)
	if k.stage != stageBegun && k.stage != stagePerformed {
		return false, nil
	}
	return true, h.confirm(ctx, d, nil, k.flags, landed)
}

// confirm is the last of the five calls.
func (h *Host) confirm(ctx context.Context, d libvirt.Domain, params []libvirt.TypedParam, flags libvirt.DomainMigrateFlags, landed bool) error {
	cancelled := int32(1)
	if landed {
		cancelled = 0
	}
	_, err := do(ctx, h.c, func(l *libvirt.Libvirt) (struct{}, error) {
		return struct{}{}, l.DomainMigrateConfirm3Params(d, params, nil, uint32(flags), cancelled)
	})
	if err == nil {
		h.held.drop(d)
	}
	return err
}

// tickets remembers the cookie of each Prepare, by the name at the destination. One that comes back to Finish shows
// that Perform has not returned, and libvirt must not be given its own cookie.
type tickets struct {
	mu sync.Mutex
	m  map[string][]byte
}

func (t *tickets) give(name string, cookie []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m == nil {
		t.m = map[string][]byte{}
	}
	t.m[name] = cookie
}

// take tells whether the cookie is the one that was given for name, and forgets it.
func (t *tickets) take(name string, cookie []byte) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	own, ok := t.m[name]
	delete(t.m, name)
	return ok && bytes.Equal(own, cookie)
}
