package qmp

import (
	"bytes"
	"io"
)

const (
	// minBuffer is what the decoder reads into at first.
	minBuffer = 16 << 10
	// keepBuffer is the largest buffer that outlives the message it grew for.
	keepBuffer = 1 << 20
)

// decoder cuts a byte stream into JSON objects. QMP promises no framing: QEMU
// ends each message with CR LF, but in its pretty mode one message spans lines.
// So the decoder follows braces and strings, and leaves everything else about
// JSON to encoding/json.
//
// The buffer grows with the message, by doubling, up to limit bytes; it is given
// up again after a large message. What next returns is the caller's.
type decoder struct {
	r     io.Reader
	limit int

	buf        []byte // buf[start:end] was read and is not yet returned
	start, end int
}

// newDecoder reads messages of at most limit bytes from r.
func newDecoder(r io.Reader, limit int) *decoder {
	return &decoder{r: r, limit: limit, buf: make([]byte, min(minBuffer, limit))}
}

// next returns the next JSON object. At the end of the stream it returns io.EOF,
// or io.ErrUnexpectedEOF in the middle of a message; for what cannot be a QMP
// message a *ProtocolError; otherwise what the reader returned.
func (d *decoder) next() ([]byte, error) {
	if err := d.skipSpace(); err != nil {
		return nil, err
	}
	if d.buf[d.start] != '{' {
		return nil, protocolError("not a JSON object", d.buf[d.start:d.end], nil)
	}
	var s objectScanner
	for n := 0; ; {
		end, complete := s.scan(d.buf[d.start+n : d.end])
		n += end
		if n > d.limit || (!complete && n == d.limit) {
			return nil, protocolError("message too large", d.buf[d.start:d.end], ErrTooLarge)
		}
		if complete {
			return d.take(n), nil
		}
		if err := d.fill(); err == io.EOF {
			return nil, io.ErrUnexpectedEOF
		} else if err != nil {
			return nil, err
		}
	}
}

// skipSpace leaves d.start on the first byte that is not white space.
func (d *decoder) skipSpace() error {
	for {
		for ; d.start < d.end; d.start++ {
			switch d.buf[d.start] {
			case ' ', '\t', '\r', '\n':
			default:
				return nil
			}
		}
		if err := d.fill(); err != nil {
			return err
		}
	}
}

// take copies the next n bytes out and steps over them.
func (d *decoder) take(n int) []byte {
	msg := bytes.Clone(d.buf[d.start : d.start+n])
	d.start += n
	if rest := d.end - d.start; len(d.buf) > keepBuffer && rest <= minBuffer {
		small := make([]byte, 2*minBuffer)
		d.end = copy(small, d.buf[d.start:d.end])
		d.start, d.buf = 0, small
	}
	return msg
}

// fill reads at least one byte more, making room first. It never makes the
// buffer larger than the limit plus one read's worth.
func (d *decoder) fill() error {
	if d.start > 0 {
		d.end = copy(d.buf, d.buf[d.start:d.end])
		d.start = 0
	}
	if d.end == len(d.buf) {
		grown := make([]byte, min(2*len(d.buf), d.limit+minBuffer))
		copy(grown, d.buf)
		d.buf = grown
	}
	for range maxEmptyReads {
		n, err := d.r.Read(d.buf[d.end:])
		d.end += n
		if n > 0 {
			return nil // an error that came with data comes again
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// maxEmptyReads is how often a reader may return nothing without an error.
const maxEmptyReads = 100

// objectScanner finds the end of a JSON object that is fed to it in pieces.
type objectScanner struct {
	depth   int
	inStr   bool
	escaped bool
}

// scan reads b and returns how many of its bytes belong to the object, and
// whether the object is complete with them.
func (s *objectScanner) scan(b []byte) (n int, complete bool) {
	for i, ch := range b {
		switch {
		case s.escaped:
			s.escaped = false
		case s.inStr && ch == '\\':
			s.escaped = true
		case ch == '"':
			s.inStr = !s.inStr
		case s.inStr:
		case ch == '{' || ch == '[':
			s.depth++
		case ch == '}' || ch == ']':
			if s.depth--; s.depth == 0 {
				return i + 1, true
			}
		}
	}
	return len(b), false
}
