package libvirthost

import (
	"encoding/binary"
	"net"
	"path/filepath"
	"sync"
	"testing"
)

// call is what a fake daemon was asked.
type call struct {
	header
	payload []byte
}

// fake is a daemon that answers the opening of a connection and leaves all other calls to a script.
type fake struct {
	t    *testing.T
	auth []uint32
	// script answers a call; nil sends nothing.
	script func(f *fake, c call) []byte

	mu    sync.Mutex
	conn  net.Conn
	calls []call
	wg    sync.WaitGroup
}

// listen serves one connection after the other on a unix socket and gives its URI.
func (f *fake) listen() string {
	f.t.Helper()
	path := filepath.Join(f.t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		f.t.Fatal(err)
	}
	f.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			f.conn = c
			f.mu.Unlock()
			f.wg.Go(func() { f.serve(c) })
		}
	})
	f.t.Cleanup(func() {
		l.Close()
		f.mu.Lock()
		if f.conn != nil {
			f.conn.Close()
		}
		f.mu.Unlock()
		f.wg.Wait()
	})
	return "qemu+unix:///system?socket=" + path
}

func (f *fake) serve(c net.Conn) {
	defer c.Close()
	for {
		b, err := readPacket(c)
		if err != nil {
			return
		}
		k := call{parseHeader(b), b[headSize:]}
		f.mu.Lock()
		f.calls = append(f.calls, k)
		f.mu.Unlock()
		if out := f.answer(k); out != nil {
			if _, err := c.Write(out); err != nil {
				return
			}
		}
	}
}

func (f *fake) answer(k call) []byte {
	switch {
	case k.prog == progKeepalive:
		if k.proc == procPing {
			return keepalive(procPong)
		}
		return nil
	case k.prog == progRemote && k.proc == procAuthList:
		auth := f.auth
		if auth == nil {
			auth = []uint32{0}
		}
		return reply4(k, append([]uint32{uint32(len(auth))}, auth...)...)
	case k.prog == progRemote && k.proc == 1: // CONNECT_OPEN
		return reply4(k)
	case k.prog == progRemote && k.proc == 60: // CONNECT_SUPPORTS_FEATURE
		return reply4(k, 1)
	}
	if f.script == nil {
		return nil
	}
	return f.script(f, k)
}

// send puts bytes on the wire without having been asked.
func (f *fake) send(b []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.conn.Write(b); err != nil {
		f.t.Error(err)
	}
}

// reply4 answers with words.
func reply4(k call, words ...uint32) []byte {
	var b []byte
	for _, w := range words {
		b = binary.BigEndian.AppendUint32(b, w)
	}
	return packet(header{prog: k.prog, vers: 1, proc: k.proc, typ: typeReply, serial: k.serial}, b)
}

// xdrString renders a counted string.
func xdrString(s string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(s)))
	b = append(b, s...)
	return append(b, make([]byte, -len(s)&3)...)
}

// failure answers with libvirt's error.
func failure(k call, code uint32, msg string) []byte {
	b := binary.BigEndian.AppendUint32(nil, code)
	b = binary.BigEndian.AppendUint32(b, 10)
	b = binary.BigEndian.AppendUint32(b, 1)
	b = append(b, xdrString(msg)...)
	for _, w := range []uint32{2, 0, 0, 0, 0, 0, 0, 0} {
		b = binary.BigEndian.AppendUint32(b, w)
	}
	return packet(header{prog: k.prog, vers: 1, proc: k.proc, typ: typeReply, serial: k.serial, status: statusError}, b)
}
