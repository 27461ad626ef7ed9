package agent

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc/mem"
)

// Limits of a message in bytes. A set of pages in its worst form takes one bit for each page: 8 TiB of 4 KiB pages fit.
const (
	maxMessage = 256<<20 + maxJSON
	maxJSON    = 1 << 20
	maxParts   = 1024
)

// codec is how messages look on the wire, instead of protocol buffers:
//
//	be32 length of the JSON · JSON · be32 number of parts · for each part: be32 length · bytes
//
// The JSON is strict: fields that the receiver does not know are refused. Parts are what JSON is too slow for.
type codec struct{}

// parted is a message that has parts besides its JSON.
type parted interface{ parts() *[][]byte }

func (codec) Name() string { return "vmmigrate-json" }

// Marshal makes a copy of no part.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if len(text) > maxJSON {
		return nil, fmt.Errorf("a message of %d bytes is longer than %d", len(text), maxJSON)
	}
	var parts [][]byte
	if p, ok := v.(parted); ok {
		parts = *p.parts()
	}
	if len(parts) > maxParts {
		return nil, fmt.Errorf("a message of %d parts has more than %d", len(parts), maxParts)
	}
	head := make([]byte, 0, 4+len(text)+8)
	head = binary.BigEndian.AppendUint32(head, uint32(len(text)))
	head = append(head, text...)
	head = binary.BigEndian.AppendUint32(head, uint32(len(parts)))
	out := mem.BufferSlice{}
	for _, p := range parts {
		head = binary.BigEndian.AppendUint32(head, uint32(len(p)))
		out = append(out, mem.SliceBuffer(head), mem.SliceBuffer(p))
		head = make([]byte, 0, 4)
	}
	if len(head) > 0 {
		out = append(out, mem.SliceBuffer(head))
	}
	return out, nil
}

// Unmarshal allocates no more than has arrived.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	r := data.Reader()
	defer func() { _ = r.Close() }() // gives buffers back
	text, err := readPart(r, maxJSON)
	if err != nil {
		return err
	}
	if err := strict(text, v); err != nil {
		return err
	}
	var b [4]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return errShort
	}
	n := binary.BigEndian.Uint32(b[:])
	p, ok := v.(parted)
	if n > maxParts || n > 0 && !ok {
		return fmt.Errorf("a message of %d parts, where %d are the most", n, maxParts)
	}
	var parts [][]byte
	for range n {
		part, err := readPart(r, maxMessage)
		if err != nil {
			return err
		}
		parts = append(parts, part)
	}
	if r.Remaining() != 0 {
		return fmt.Errorf("a message with %d bytes behind its end", r.Remaining())
	}
	if ok {
		*p.parts() = parts
	}
	return nil
}

var errShort = errors.New("a message that ends too early")

func readPart(r mem.Reader, limit int) ([]byte, error) {
	var b [4]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return nil, errShort
	}
	n := binary.BigEndian.Uint32(b[:])
	if int64(n) > int64(limit) || int64(n) > int64(r.Remaining()) {
		return nil, errShort
	}
	part := make([]byte, n)
	if _, err := io.ReadFull(r, part); err != nil {
		return nil, errShort
	}
	return part, nil
}

// strict decodes one JSON object and nothing besides.
func strict(text []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("a message of more than one object")
	}
	return nil
}

// looseJSON decodes what it knows of one JSON object.
func looseJSON(text []byte, v any) error { return json.Unmarshal(text, v) }
