package testenv

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vmmigrate/vmmigrate/testenv/internal/layout"
	"github.com/vmmigrate/vmmigrate/testenv/internal/netns"
	"github.com/vmmigrate/vmmigrate/testenv/internal/owner"
)

// space is a network namespace of the lab, known by a process in it.
type space struct {
	owner owner.Identity
	what  string
	plan  layout.Plan
}

// do runs fn inside.
func (s space) do(fn func() error) error {
	if !s.owner.Alive() {
		return fmt.Errorf("%s: %w", s.what, ErrHostDown)
	}
	return netns.Do(netns.OfProcess(s.owner.PID), fn)
}

// Dial connects to an address as seen from there. addr is IP:PORT or NAME:PORT with
// the name of a host of the lab; no other names are looked up.
func (s space) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	addr, err := s.resolve(network, addr)
	if err != nil {
		return nil, err
	}
	var conn net.Conn
	err = s.do(func() (err error) {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, addr)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("dial from %s: %w", s.what, err)
	}
	return conn, nil
}

// DialContext is Dial, so that a space can stand where a net.Dialer does.
func (s space) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return s.Dial(ctx, network, addr)
}

// Listen listens on an address there. addr is as in Dial, or :PORT.
func (s space) Listen(ctx context.Context, network, addr string) (net.Listener, error) {
	addr, err := s.resolve(network, addr)
	if err != nil {
		return nil, err
	}
	var l net.Listener
	err = s.do(func() (err error) {
		var c net.ListenConfig
		l, err = c.Listen(ctx, network, addr)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen in %s: %w", s.what, err)
	}
	return l, nil
}

// ListenPacket is Listen for datagrams.
func (s space) ListenPacket(ctx context.Context, network, addr string) (net.PacketConn, error) {
	addr, err := s.resolve(network, addr)
	if err != nil {
		return nil, err
	}
	var c net.PacketConn
	err = s.do(func() (err error) {
		var lc net.ListenConfig
		c, err = lc.ListenPacket(ctx, network, addr)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen in %s: %w", s.what, err)
	}
	return c, nil
}

// resolve replaces the name of a host by its address. A name that needed a look-up
// would be looked up outside the namespace, so it is refused.
func (s space) resolve(network, addr string) (string, error) {
	if !strings.HasPrefix(network, "tcp") && !strings.HasPrefix(network, "udp") {
		return "", fmt.Errorf("%s: network %q is not tcp or udp", s.what, network)
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", fmt.Errorf("%s: %w", s.what, err)
	}
	if host == "" {
		return addr, nil
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return addr, nil
	}
	h, err := s.plan.Host(host)
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(h.Address.Addr().String(), port), nil
}

// Client is the place on the guests' network from which clients talk to guests:
// a network namespace of its own, at layout.ClientAddress.
type Client struct{ space }
