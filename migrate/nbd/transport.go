package nbd

import (
	"net"
	"sync"
)

// batchSize is how many bytes below TLS are written at once: several of its records of 16 KiB.
const batchSize = 128 << 10

// batchConn is what TLS is put upon: between hold and flush it gathers the records that TLS would write one by one.
type batchConn struct {
	net.Conn
	mu   sync.Mutex
	held bool
	buf  []byte
	err  error // of an earlier write
}

// Batch returns conn as something to put TLS upon, for those who hand the server or a Client a *tls.Conn of their own: what
// is sent at once is then written at once, and not a record of 16 KiB at a time. Whoever closes the result closes conn.
func Batch(conn net.Conn) net.Conn { return newBatchConn(conn) }

func newBatchConn(conn net.Conn) *batchConn { return &batchConn{Conn: conn} }

// NetConn is the connection below.
func (b *batchConn) NetConn() net.Conn { return b.Conn }

// Write keeps p while writing is held, up to batchSize.
func (b *batchConn) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.held {
		return b.Conn.Write(p)
	}
	b.buf = append(b.buf, p...)
	if len(b.buf) >= batchSize {
		b.out()
	}
	return len(p), b.err
}

func (b *batchConn) out() {
	if len(b.buf) > 0 && b.err == nil {
		_, b.err = b.Conn.Write(b.buf)
	}
	b.buf = b.buf[:0]
}

func (b *batchConn) hold() {
	b.mu.Lock()
	b.held = true
	b.mu.Unlock()
}

func (b *batchConn) flush() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held = false
	b.out()
	return b.err
}

// writeAll writes all the buffers with as few system calls as may be. It uses up bufs. The caller sees to it that nobody else
// writes meanwhile.
func writeAll(conn net.Conn, bufs *net.Buffers) error {
	batch := batchBelow(conn)
	if batch == nil {
		_, err := bufs.WriteTo(conn)
		return err
	}
	batch.hold()
	_, err := bufs.WriteTo(conn)
	if flushed := batch.flush(); err == nil {
		err = flushed
	}
	return err
}

// batchBelow is what gathers what TLS writes, or nil. There may be others around TLS that count, or name, what passes.
func batchBelow(conn net.Conn) *batchConn {
	for {
		switch c := conn.(type) {
		case *batchConn:
			return c
		case interface{ Below() net.Conn }:
			conn = c.Below()
		case interface{ NetConn() net.Conn }:
			conn = c.NetConn()
		default:
			return nil
		}
	}
}

// bareConn is the connection below TLS and batches.
func bareConn(conn net.Conn) net.Conn {
	for {
		inner, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return conn
		}
		conn = inner.NetConn()
	}
}
