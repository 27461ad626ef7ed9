package hall

import (
	"net"
	"testing"
)

func addr(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 1} }

// TestHall: one address gets its share and no more, all together what there is, and who leaves makes room, once.
func TestHall(t *testing.T) {
	h := New(3, 2)
	leave, ok := h.Enter(addr("192.0.2.1"))
	if !ok {
		t.Fatal("an empty hall lets nobody in")
	}
	enter := func(ip string, want bool) {
		t.Helper()
		if _, ok := h.Enter(addr(ip)); ok != want {
			t.Errorf("%s: let in %t, want %t", ip, ok, want)
		}
	}
	enter("::ffff:192.0.2.1", true)
	enter("192.0.2.1", false)
	leave()
	leave()
	enter("192.0.2.1", true)
	enter("192.0.2.1", false)
	enter("192.0.2.2", true)
	enter("192.0.2.3", false) // three wait
}

// TestHallTakesANetworkForOneAddress: who has one IPv6 address usually has 2^64.
func TestHallTakesANetworkForOneAddress(t *testing.T) {
	h := New(9, 1)
	for _, c := range []struct {
		from net.Addr
		want bool
	}{{addr("2001:db8::1"), true}, {addr("2001:db8::2"), false}, {addr("2001:db8:0:1::1"), true},
		{&net.UnixAddr{Name: "a"}, true}, {&net.UnixAddr{Name: "b"}, false}} {
		if _, ok := h.Enter(c.from); ok != c.want {
			t.Errorf("%v: let in %t", c.from, ok)
		}
	}
}
