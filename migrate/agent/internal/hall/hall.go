// Package hall bounds how many connections wait that have not yet shown who they are, in all and from one address, so that a
// stranger who says nothing keeps nobody else out.
package hall

import (
	"net"
	"net/netip"
	"sync"
)

// Hall counts who waits. It is safe for several goroutines.
type Hall struct {
	all, each int

	mu   sync.Mutex
	n    int
	from map[netip.Prefix]int
}

// New makes a Hall for so many connections in all, and from each address.
func New(all, each int) *Hall {
	return &Hall{all: all, each: each, from: map[netip.Prefix]int{}}
}

// Enter lets a connection from an address wait, if there is room. Whoever gets leave calls it once it waits no more; a second
// call does nothing.
func (h *Hall) Enter(from net.Addr) (leave func(), ok bool) {
	at := placeOf(from)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.n >= h.all || h.from[at] >= h.each {
		return nil, false
	}
	h.n++
	h.from[at]++
	return sync.OnceFunc(func() { h.leave(at) }), true
}

func (h *Hall) leave(at netip.Prefix) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.n--
	if h.from[at]--; h.from[at] == 0 {
		delete(h.from, at)
	}
}

// placeOf is what counts as one address: of IPv6 a whole network of 64 bits, whose addresses are anybody's in it to choose. What is no
// IP address, such as a unix socket, is one place.
func placeOf(from net.Addr) netip.Prefix {
	tcp, ok := from.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	at, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return at
}
