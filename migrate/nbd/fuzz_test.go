package nbd

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"time"
)

// script is a connection whose peer says what is written in it, and hears nothing.
type script struct{ io.Reader }

func (script) Write(p []byte) (int, error)      { return len(p), nil }
func (script) Close() error                     { return nil }
func (script) LocalAddr() net.Addr              { return &net.UnixAddr{} }
func (script) RemoteAddr() net.Addr             { return &net.UnixAddr{} }
func (script) SetDeadline(time.Time) error      { return nil }
func (script) SetReadDeadline(time.Time) error  { return nil }
func (script) SetWriteDeadline(time.Time) error { return nil }

func fuzzServer(f *testing.F) *Server {
	f.Helper()
	srv, err := NewServer(Config{Exports: NewExports(Export{Name: "x", Backend: newTold()}, Export{Backend: newTold(), ReadOnly: true, MinBlock: 512})})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = srv.Close() })
	return srv
}

// Whatever a client negotiates and asks, the server neither panics nor hangs.
func FuzzServer(f *testing.F) {
	srv := fuzzServer(f)
	greet := wire.AppendUint32(nil, 3)
	opt := func(opt uint32, data []byte) []byte { return append(optionHead(opt, uint32(len(data))), data...) }
	f.Add(bytes.Join([][]byte{greet, opt(optStructuredReply, nil), opt(optSetMeta, metaQuery("x", BaseAllocation, DirtyBitmap)), opt(optGo, named("x", 0, 1, 0, 3)),
		request{cmd: cmdBlockStatus, length: 8192}.append(nil), request{length: 8192}.append(nil), request{cmd: cmdWriteZeroes, length: 100}.append(nil),
		append(request{cmd: cmdWrite, length: 3}.append(nil), 1, 2, 3), request{cmd: cmdDisc}.append(nil)}, nil))
	f.Add(bytes.Join([][]byte{greet, opt(optList, nil), opt(optInfo, named("", 0, 0)), opt(optListMeta, metaQuery("")), opt(optExportName, nil), request{length: 512}.append(nil)}, nil))
	f.Fuzz(func(_ *testing.T, p []byte) {
		_ = srv.ServeConn(context.Background(), script{bytes.NewReader(p)}) // any end will do
	})
}

// What is read of options agrees with their length.
func FuzzOptions(f *testing.F) {
	f.Add(named("x", 0, 1, 0, 3))
	f.Add(metaQuery("x", BaseAllocation))
	f.Fuzz(func(t *testing.T, p []byte) {
		if name, wanted, err := parseInfo(p); err == nil && 4+len(name)+2+2*len(wanted) != len(p) {
			t.Errorf("name %q and %d informations of %d bytes", name, len(wanted), len(p))
		}
		if name, queries, err := parseMeta(p); err == nil {
			if q := metaQuery(name, queries...); !bytes.Equal(q, p) {
				t.Errorf("%x was read as %x", p, q)
			}
		}
	})
}

// Whatever a server replies, a read that succeeds was told all of its bytes, and nothing was written past them.
func FuzzReplies(f *testing.F) {
	const size = 96 // small, so that the fuzzer's inputs are
	q := request{cookie: 1, length: size, offset: memPage}
	f.Add(dataChunk(q, chunkDone, memPage, memPage+size, 2*memPage))
	f.Add(append(holeChunk(q, 0, memPage, memPage+50), dataChunk(q, chunkDone, memPage+50, memPage+size, 2*memPage)...))
	f.Add(append(appendSimple(nil, 2, EIO), chunk{flags: chunkDone, kind: chunkStatus, cookie: 3, length: 12}.append(nil)...))
	f.Add(append(chunk{kind: chunkErrorAt, cookie: 1, length: 16}.append(nil), 0, 0, 0, 5, 0, 2))
	f.Fuzz(func(t *testing.T, p []byte) {
		c := &Client{cfg: ClientConfig{}.withDefaults(), info: Info{Structured: true}}
		conn := script{bytes.NewReader(p)}
		l := newLink(c, &hello{conn: conn, br: bufio.NewReader(conn), contexts: map[uint32]string{1: BaseAllocation}})
		buf := bytes.Repeat([]byte{0xaa}, size+2)
		calls := []*call{newCall(cmdRead, memPage, size), newCall(cmdWrite, 0, 1), newCall(cmdBlockStatus, 0, 1<<20)}
		calls[0].dst, calls[2].want = buf[1:size+1], BaseAllocation
		for _, k := range calls {
			if err := l.start(k); err != nil {
				t.Fatal(err)
			}
		}
		l.end(l.read())
		if buf[0] != 0xaa || buf[size+1] != 0xaa {
			t.Error("bytes around the buffer were written to")
		}
		if k := calls[0]; k.err == nil && len(k.pieces) == 0 {
			t.Error("a read without any data succeeded")
		}
		for _, h := range calls[0].holes {
			if h.Offset < memPage || h.Length <= 0 || h.End() > memPage+size {
				t.Errorf("hole %+v", h)
			}
		}
		if k := calls[2]; k.err == nil && len(k.list) == 0 {
			t.Error("block status without any extent succeeded")
		}
	})
}

// Whatever a server says in the handshake, the client takes it or refuses it.
func FuzzHello(f *testing.F) {
	srv := fuzzServer(f)
	near, far := net.Pipe()
	go func() {
		_ = srv.ServeConn(context.Background(), far)
	}()
	var said bytes.Buffer
	h := &hello{cfg: &ClientConfig{Export: "x", Contexts: []string{BaseAllocation}, Patience: time.Minute}, conn: recorded{near, &said}}
	if err := h.shake(context.Background()); err != nil {
		f.Fatal(err)
	}
	_ = near.Close()
	f.Add(said.Bytes())
	f.Fuzz(func(t *testing.T, p []byte) {
		h := &hello{cfg: h.cfg, conn: script{bytes.NewReader(p)}}
		if err := h.shake(context.Background()); err == nil && (h.info.Size < 0 || h.info.MaxBlock == 0 || h.info.MaxBlock > maxPayload) {
			t.Errorf("%+v", h.info)
		}
	})
}

// recorded keeps what was read.
type recorded struct {
	net.Conn
	said *bytes.Buffer
}

func (r recorded) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.said.Write(p[:n])
	return n, err
}
