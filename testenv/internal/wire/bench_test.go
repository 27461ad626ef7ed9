package wire

import (
	"io"
	"log/slog"
	"net"
	"strconv"
	"testing"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/testenv/internal/layout"
	"github.com/vmmigrate/vmmigrate/testenv/internal/netns"
	"github.com/vmmigrate/vmmigrate/testenv/link"
)

// benchLink sends 8 MiB per iteration over one connection.
func benchLink(b *testing.B, text string) {
	need.Netns(b)
	spec, err := link.ParseSpec(text)
	if err != nil {
		b.Fatal(err)
	}
	plan, err := layout.New("bench", "/tmp", []string{"a", "b"}, spec)
	if err != nil {
		b.Fatal(err)
	}
	w, err := New(slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	var l net.Listener
	var conn net.Conn
	for i, h := range plan.Hosts {
		ns, err := netns.New()
		if err != nil {
			b.Fatal(err)
		}
		defer ns.Close()
		if err := w.AttachHost(h, "/proc/self/fd/"+strconv.Itoa(int(ns.Fd()))); err != nil {
			b.Fatal(err)
		}
		if err := w.Shape(h.Name, spec); err != nil {
			b.Fatal(err)
		}
		err = netns.DoFile(ns, func() (err error) {
			if i == 0 {
				l, err = net.Listen("tcp4", ":7")
			} else {
				conn, err = net.Dial("tcp", plan.Hosts[0].Address.Addr().String()+":7")
			}
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	defer l.Close()
	peer, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	defer peer.Close()
	defer conn.Close()
	const size = 8 << 20
	chunk := make([]byte, size)
	b.SetBytes(size)
	for b.Loop() {
		go conn.Write(chunk)
		if _, err := io.CopyN(io.Discard, peer, size); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(size)*8*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mbit/s")
}
