package agent

import (
	"errors"
	"io"
	"net"
	"os"
)

// Connections of NBD clients travel over the control connection: what is exported can then be read by whoever can steer the
// agent and by nobody else, over ssh as well as on this machine, and no port is opened on the host.
//
//	client ── conn ── Client.Serve ══ stream of chunks ══ session.serve ── socket pair ── NBD server
//
// Each side sends what it reads, and a last chunk with End. Flow is controlled by HTTP/2's window.

// chunkSize is how much is read from a connection at once.
const chunkSize = 256 << 10

// chunk is a piece of a connection. The first one names the end and has no data.
type chunk struct {
	Handle uint64 `json:"handle,omitempty"`
	End    bool   `json:"end,omitempty"`
	data   [][]byte
}

func (m *chunk) parts() *[][]byte { return &m.data }

// chunks is either end of a stream.
type chunks interface {
	SendMsg(m any) error
	RecvMsg(m any) error
}

// sendAll sends what comes from conn, until that ends, and says so.
func sendAll(to chunks, conn net.Conn) error {
	for {
		buf := make([]byte, chunkSize) // gRPC keeps it until it is sent
		n, err := conn.Read(buf)
		if n > 0 {
			if err := to.SendMsg(&chunk{data: [][]byte{buf[:n]}}); err != nil {
				return err
			}
		}
		if err != nil {
			return to.SendMsg(&chunk{End: true})
		}
	}
}

// receiveAll writes what comes to conn until the other side has no more. A conn that takes nothing any more is no error: the
// rest is thrown away.
func receiveAll(from chunks, conn net.Conn) error {
	broken := false
	for {
		var m chunk
		if err := from.RecvMsg(&m); err != nil {
			return err
		}
		if m.End {
			return nil
		}
		for _, p := range m.data {
			if broken {
				break
			}
			if _, err := conn.Write(p); err != nil {
				broken = true
				_ = conn.Close() // its other direction ends, too
			}
		}
	}
}

// ended tells an error that only says that a connection is over.
func ended(err error) bool {
	return err == nil || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrClosed)
}
