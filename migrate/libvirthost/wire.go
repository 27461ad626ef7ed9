package libvirthost

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// The sizes of libvirt's packets, in bytes. maxPacket is libvirt's own limit (VIR_NET_MESSAGE_MAX with its length word);
// a daemon never sends more.
const (
	lenSize    = 4
	headSize   = 28 // the length word and six words of header
	maxPacket  = 32<<20 + lenSize
	growPacket = 64 << 10 // a packet's buffer grows by what has really arrived
)

// The programs and procedures that are handled here rather than by go-libvirt.
const (
	progRemote    = 0x20008086
	progQEMU      = 0x20008087
	progKeepalive = 0x6b656570

	procConnectClose   = 2
	procAuthList       = 66
	procLifecycle      = 318
	procIOErrorReason  = 324
	procIteration      = 359
	procMonitorEvent   = 6
	procPing, procPong = 1, 2
)

// The types and statuses of a packet.
const (
	typeCall, typeReply, typeMessage = 0, 1, 2
	statusOK, statusError            = 0, 1
)

// header is what precedes the payload of every packet.
type header struct {
	prog, vers, proc, typ uint32
	serial                int32
	status                uint32
}

func parseHeader(b []byte) header {
	w := func(i int) uint32 { return binary.BigEndian.Uint32(b[lenSize+4*i:]) }
	return header{w(0), w(1), w(2), w(3), int32(w(4)), w(5)}
}

// packet renders one packet.
func packet(h header, payload []byte) []byte {
	b := make([]byte, 0, headSize+len(payload))
	for _, v := range []uint32{uint32(headSize + len(payload)), h.prog, h.vers, h.proc, h.typ, uint32(h.serial), h.status} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return append(b, payload...)
}

// checkLen refuses a length word that go-libvirt could not survive: it panics below headSize and allocates whatever
// the word says.
func checkLen(n uint32) error {
	if n < headSize || n > maxPacket {
		return fmt.Errorf("malformed packet: length %d is not within %d and %d", n, headSize, maxPacket)
	}
	return nil
}

// readPacket reads one whole packet, length word included. Memory is taken as bytes arrive, not as they are announced.
func readPacket(r io.Reader) ([]byte, error) {
	var word [lenSize]byte
	if _, err := io.ReadFull(r, word[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(word[:])
	if err := checkLen(n); err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	buf.Grow(int(min(n, growPacket)))
	buf.Write(word[:])
	if _, err := io.CopyN(&buf, r, int64(n)-lenSize); err != nil {
		return nil, fmt.Errorf("packet of %d bytes broke off: %w", n, err)
	}
	return buf.Bytes(), nil
}

// wire stands between the socket and go-libvirt. It lets only whole, bounded packets through, takes events and
// keepalives out of the stream before go-libvirt sees them, writes one packet at a time, and gives every write a
// deadline. Read is called by go-libvirt's reader alone.
type wire struct {
	net.Conn
	r io.Reader
	// take returns true for a packet that it consumed. It must not block.
	take func(header, []byte) bool

	rest    []byte // of a packet that go-libvirt has read in part
	packets atomic.Int64

	wmu     sync.Mutex
	pending []byte // an outgoing packet that is not whole yet

	once sync.Once
	why  error
	dead chan struct{} // closed by fail; why is set before
}

// writeTimeout bounds one write; a daemon that takes no bytes for so long is gone.
const writeTimeout = 20 * time.Second

func newWire(c net.Conn, take func(header, []byte) bool) *wire {
	return &wire{Conn: c, r: bufio.NewReader(c), take: take, dead: make(chan struct{})}
}

// fail marks the connection as lost for the reason that comes first, and closes it.
func (w *wire) fail(err error) {
	w.once.Do(func() {
		w.why = err
		close(w.dead)
		w.Conn.Close()
	})
}

// reason says why the connection is lost; nil while it is not.
func (w *wire) reason() error {
	select {
	case <-w.dead:
		return w.why
	default:
		return nil
	}
}

// Read hands out the packets that are go-libvirt's to see. Its errors are final and never a net.Error, for which
// go-libvirt would try again for ever.
func (w *wire) Read(p []byte) (int, error) {
	for len(w.rest) == 0 {
		b, err := readPacket(w.r)
		if err != nil {
			w.fail(err)
			return 0, io.ErrClosedPipe
		}
		w.packets.Add(1)
		h := parseHeader(b)
		if w.take != nil && w.take(h, b[headSize:]) {
			continue
		}
		w.rest = b
	}
	n := copy(p, w.rest)
	w.rest = w.rest[n:]
	return n, nil
}

// Write collects go-libvirt's writes into whole packets, so that a keepalive never falls into the middle of one.
func (w *wire) Write(p []byte) (int, error) {
	w.wmu.Lock()
	defer w.wmu.Unlock()
	w.pending = append(w.pending, p...)
	for len(w.pending) >= lenSize {
		n := binary.BigEndian.Uint32(w.pending)
		if err := checkLen(n); err != nil {
			w.fail(err)
			return 0, err
		}
		if uint32(len(w.pending)) < n {
			break
		}
		if err := w.put(w.pending[:n], writeTimeout); err != nil {
			return 0, err
		}
		w.pending = append(w.pending[:0], w.pending[n:]...)
	}
	return len(p), nil
}

// inject sends a packet of ours between two of go-libvirt's.
func (w *wire) inject(b []byte) error {
	w.wmu.Lock()
	defer w.wmu.Unlock()
	return w.put(b, writeTimeout)
}

// farewell sends the last packet; it is not worth waiting for.
func (w *wire) farewell(b []byte) {
	w.wmu.Lock()
	defer w.wmu.Unlock()
	_ = w.put(b, time.Second)
}

func (w *wire) put(b []byte, limit time.Duration) error {
	if err := w.Conn.SetWriteDeadline(time.Now().Add(limit)); err != nil {
		w.fail(err)
		return io.ErrClosedPipe
	}
	_, err := w.Conn.Write(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("the daemon took no data for %v", limit)
	}
	if err != nil {
		w.fail(err)
		return io.ErrClosedPipe
	}
	return nil
}

// Close ends the connection on our own wish.
func (w *wire) Close() error {
	w.fail(net.ErrClosed)
	return nil
}
