package libvirthost

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// errShort is given for a payload that ends early or claims more than it holds.
var errShort = errors.New("payload is too short for what it claims")

// reader decodes XDR from a payload. The first error sticks and all later values are zero, so a decoder checks once,
// at its end. Nothing is allocated beyond what the payload holds.
type reader struct {
	b   []byte
	err error
}

func (r *reader) take(n int) []byte {
	if r.err != nil || n < 0 || n > len(r.b) {
		r.err = errShort
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) int32() int32 { return int32(r.uint32()) }

func (r *reader) int64() int64 {
	if b := r.take(8); b != nil {
		return int64(binary.BigEndian.Uint64(b))
	}
	return 0
}

// string reads a counted string with its padding.
func (r *reader) string() string {
	n := r.uint32()
	if uint64(n) > uint64(len(r.b)) {
		r.err = errShort
		return ""
	}
	s := string(r.take(int(n)))
	r.take(int(-n & 3))
	return s
}

// optString reads an optional string.
func (r *reader) optString() string {
	if r.uint32() == 0 {
		return ""
	}
	return r.string()
}

// ref names the domain that an event is about.
type ref struct {
	name string
	uuid [16]byte
}

func (r *reader) domain() ref {
	d := ref{name: r.string()}
	copy(d.uuid[:], r.take(16))
	r.int32() // id
	return d
}

// parseAuthList reads the reply to AUTH_LIST.
func parseAuthList(payload []byte) ([]uint32, error) {
	r := &reader{b: payload}
	n := r.uint32()
	if r.err != nil || uint64(n)*4 > uint64(len(r.b)) {
		return nil, fmt.Errorf("list of authentication kinds: %w", errShort)
	}
	out := make([]uint32, n)
	for i := range out {
		out[i] = r.uint32()
	}
	return out, nil
}

// parseError reads code and message of an error reply.
func parseError(payload []byte) (code uint32, msg string) {
	r := &reader{b: payload}
	code = r.uint32()
	r.uint32() // the libvirt driver it comes from
	msg = r.optString()
	return code, msg
}
