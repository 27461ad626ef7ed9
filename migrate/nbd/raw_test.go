package nbd

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

// raw is a client that says what it is told to, right or wrong.
type raw struct {
	*testing.T
	conn net.Conn
}

// rawTo connects one to a server of these exports; nothing is negotiated.
func rawTo(t *testing.T, cfg Config) *raw {
	t.Helper()
	srv, err := NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return rawOn(t, srv)
}

func rawOn(t *testing.T, srv *Server) *raw {
	t.Helper()
	near, far := net.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.ServeConn(context.Background(), far) }) // what it returns is another test's
	t.Cleanup(func() {
		_ = near.Close()
		_ = srv.Close()
		wg.Wait()
	})
	r := &raw{t, near}
	head := r.read(18)
	if wire.Uint64(head) != protocol.NEGOTIATION_MAGIC_OLDSTYLE || wire.Uint16(head[16:]) != 3 {
		t.Fatalf("greeting %x", head)
	}
	return r
}

func (r *raw) write(p []byte) {
	r.Helper()
	if _, err := r.conn.Write(p); err != nil {
		r.Fatal(err)
	}
}

func (r *raw) read(n int) []byte {
	r.Helper()
	p := make([]byte, n)
	if _, err := io.ReadFull(r.conn, p); err != nil {
		r.Fatal(err)
	}
	return p
}

// gone sees that the server has hung up.
func (r *raw) gone() {
	r.Helper()
	if n, err := r.conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		r.Errorf("the connection is still there: %d, %v", n, err)
	}
}

func (r *raw) greet() *raw {
	r.write(wire.AppendUint32(nil, 3))
	return r
}

type answer struct {
	kind uint32
	data []byte
}

func optionHead(opt, length uint32) []byte {
	p := wire.AppendUint64(nil, protocol.NEGOTIATION_MAGIC_OPTION)
	return wire.AppendUint32(wire.AppendUint32(p, opt), length)
}

// option sends an option and returns all its answers.
func (r *raw) option(opt uint32, data []byte) []answer {
	r.Helper()
	r.write(append(optionHead(opt, uint32(len(data))), data...))
	return r.answers(opt)
}

func (r *raw) answers(opt uint32) (list []answer) {
	r.Helper()
	for {
		head := r.read(20)
		a := answer{wire.Uint32(head[12:]), r.read(int(wire.Uint32(head[16:])))}
		if wire.Uint64(head) != protocol.NEGOTIATION_MAGIC_REPLY || wire.Uint32(head[8:]) != opt {
			r.Fatalf("answer %x to option %d", head, opt)
		}
		list = append(list, a)
		if a.kind == repAck || a.kind&repErrFlag != 0 {
			return list
		}
	}
}

// ends is the kind of the last answer to an option.
func (r *raw) ends(opt uint32, data []byte) uint32 {
	r.Helper()
	list := r.option(opt, data)
	return list[len(list)-1].kind
}

func named(name string, rest ...byte) []byte {
	return append(append(wire.AppendUint32(nil, uint32(len(name))), name...), rest...)
}

// goTo negotiates a name, with structured replies and contexts if there are any.
func (r *raw) goTo(name string, structured bool, contexts ...string) *raw {
	r.Helper()
	r.greet()
	if structured && r.ends(optStructuredReply, nil) != repAck {
		r.Fatal("no structured replies")
	}
	if len(contexts) > 0 {
		if list := r.option(optSetMeta, metaQuery(name, contexts...)); len(list) != len(contexts)+1 {
			r.Fatalf("contexts %v", list)
		}
	}
	if got := r.ends(optGo, named(name, 0, 0)); got != repAck {
		r.Fatalf("GO: %#x", got)
	}
	return r
}

func metaQuery(name string, queries ...string) []byte {
	p := wire.AppendUint32(named(name), uint32(len(queries)))
	for _, q := range queries {
		p = append(p, named(q)...)
	}
	return p
}

// ask sends a request.
func (r *raw) ask(q request, data ...byte) {
	r.Helper()
	r.write(append(q.append(nil), data...))
}

// reply reads a simple reply, with data if it is a good one to a read.
func (r *raw) reply(q request) (Errno, []byte) {
	r.Helper()
	head := r.read(simpleLen)
	if wire.Uint32(head) != protocol.TRANSMISSION_MAGIC_REPLY || wire.Uint64(head[8:]) != q.cookie {
		r.Fatalf("reply %x to cookie %d", head, q.cookie)
	}
	errno := Errno(wire.Uint32(head[4:]))
	if errno == 0 && q.cmd == cmdRead {
		return 0, r.read(int(q.length))
	}
	return errno, nil
}

// does sends a request and returns the error of its simple reply.
func (r *raw) does(q request, data ...byte) Errno {
	r.Helper()
	r.ask(q, data...)
	errno, _ := r.reply(q)
	return errno
}

type piece struct {
	chunk
	data []byte
}

// chunks reads a structured reply.
func (r *raw) chunks(cookie uint64) (list []piece) {
	r.Helper()
	for {
		head := r.read(structuredLen)
		p := piece{chunk: parseChunk(head)}
		if wire.Uint32(head) != magicStructured || p.cookie != cookie {
			r.Fatalf("chunk %x to cookie %d", head, cookie)
		}
		p.data = r.read(int(p.length))
		list = append(list, p)
		if p.flags&chunkDone != 0 {
			return list
		}
	}
}
