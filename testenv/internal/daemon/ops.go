package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vmmigrate/vmmigrate/testenv/internal/control"
	"github.com/vmmigrate/vmmigrate/testenv/internal/wire"
	"github.com/vmmigrate/vmmigrate/testenv/link"
)

// Operations that the daemon does.
const (
	OpStatus   = "status"
	OpShape    = "shape"    // Host, Link
	OpCut      = "cut"      // Host
	OpMend     = "mend"     // Host
	OpCounters = "counters" // Host → wire.Counters
	OpBlock    = "block"    // Host, Low, High
	OpUnblock  = "unblock"  // Host, Low, High
	OpRestart  = "restart-libvirtd"
	OpStop     = "stop-libvirtd"
	OpKill     = "kill-host"
)

// Status is the answer to OpStatus.
type Status struct {
	State State        `json:"state"`
	Hosts []HostStatus `json:"hosts"`
}

// HostStatus is one host of it.
type HostStatus struct {
	Name string `json:"name"`
	// Libvirtd is "running", "stopped", or how it ended.
	Libvirtd string `json:"libvirtd"`
	// Link is the link's spec, Cut whether its cable is pulled.
	Link link.Spec `json:"link"`
	Cut  bool      `json:"cut"`
	// Blocked are the ranges of ports that are dropped.
	Blocked  []wire.Ports  `json:"blocked"`
	Counters wire.Counters `json:"counters"`
}

// operations maps names to what they do.
func (l *lab) operations() map[string]control.Handler {
	ops := map[string]control.Handler{
		OpStatus:   l.status,
		OpShape:    l.shape,
		OpCut:      l.cut,
		OpMend:     l.mend,
		OpCounters: func(_ context.Context, r control.Request) (any, error) { return l.wire.Counters(r.Host) },
		OpBlock:    l.block,
		OpUnblock:  l.unblock,
		OpRestart:  l.restart,
		OpStop:     l.stopLibvirtd,
		OpKill:     l.killHost,
	}
	maps.Copy(ops, l.guestOperations())
	return ops
}

// handle does one request from another process.
func (l *lab) handle(ctx context.Context, r control.Request) (any, error) {
	ops := l.operations()
	op, ok := ops[r.Op]
	if !ok {
		names := slices.Sorted(maps.Keys(ops))
		return nil, fmt.Errorf("the lab cannot %q; it can %s", r.Op, strings.Join(names, ", "))
	}
	result, err := op(ctx, r)
	l.log.Info("request", "op", r.Op, "host", r.Host, "err", err)
	return result, err
}

func (l *lab) status(_ context.Context, _ control.Request) (any, error) {
	s := Status{State: l.state}
	for _, h := range l.plan.Hosts {
		l.mu.Lock()
		p, ls := l.hosts[h.Name], l.links[h.Name]
		l.mu.Unlock()
		hs := HostStatus{Name: h.Name, Link: ls.Spec, Cut: ls.Cut, Blocked: []wire.Ports{}}
		_, hs.Libvirtd = p.status()
		var err error
		// A host that is down has no counters and nothing blocked.
		if hs.Counters, err = l.wire.Counters(h.Name); err == nil {
			if blocked, err := l.wire.Blocked(h.Name); err == nil {
				hs.Blocked = append(hs.Blocked, blocked...)
			}
		}
		s.Hosts = append(s.Hosts, hs)
	}
	return s, nil
}

// setLink does something to a host's link and remembers it.
func (l *lab) setLink(host string, do func() error, note func(*linkState)) (any, error) {
	if _, err := l.plan.Host(host); err != nil {
		return nil, err
	}
	if err := do(); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.links[host]
	note(&s)
	l.links[host] = s
	return nil, nil
}

func (l *lab) shape(_ context.Context, r control.Request) (any, error) {
	if r.Link == nil {
		return nil, errors.New("shape without a link spec")
	}
	return l.setLink(r.Host, func() error { return l.wire.Shape(r.Host, *r.Link) }, func(s *linkState) { s.Spec = *r.Link })
}

func (l *lab) cut(_ context.Context, r control.Request) (any, error) {
	return l.setLink(r.Host, func() error { return l.wire.Cut(r.Host) }, func(s *linkState) { s.Cut = true })
}

func (l *lab) mend(_ context.Context, r control.Request) (any, error) {
	return l.setLink(r.Host, func() error { return l.wire.Mend(r.Host) }, func(s *linkState) { s.Cut = false })
}

func (l *lab) block(_ context.Context, r control.Request) (any, error) {
	return nil, l.wire.Block(r.Host, wire.Ports{Low: r.Low, High: r.High})
}

func (l *lab) unblock(_ context.Context, r control.Request) (any, error) {
	return nil, l.wire.Unblock(r.Host, wire.Ports{Low: r.Low, High: r.High})
}

// errBare is the error for what needs a libvirtd in a lab without.
var errBare = errors.New("the hosts of this lab have no libvirtd")

func (l *lab) restart(ctx context.Context, r control.Request) (any, error) {
	if l.plan.Bare {
		return nil, errBare
	}
	p, err := l.host(r.Host)
	if err != nil {
		return nil, err
	}
	return nil, p.launch(ctx)
}

func (l *lab) stopLibvirtd(ctx context.Context, r control.Request) (any, error) {
	p, err := l.host(r.Host)
	if err != nil {
		return nil, err
	}
	return nil, p.stop(ctx)
}

// killHost ends a host as a power failure would. It does not come back.
func (l *lab) killHost(_ context.Context, r control.Request) (any, error) {
	p, err := l.host(r.Host)
	if err != nil {
		return nil, err
	}
	err = l.wire.Detach(r.Host)
	p.kill()
	return nil, err
}
