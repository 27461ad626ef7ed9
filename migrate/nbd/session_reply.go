package nbd

import (
	"context"
	"errors"
	"fmt"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// doRead reads and prepares the reply: data and holes in chunks, or, where the client has no structured replies or wants no
// fragments, data alone.
func (s *session) doRead(ctx context.Context, j *job) error {
	off, length := int64(j.offset), int64(j.length)
	var p []byte
	var holes []ram.Extent
	var err error
	if s.dev.view != nil {
		if p, holes, err = s.dev.view.View(ctx, off, length); err != nil {
			return err
		}
	}
	whole := !s.structured || j.flags&cmdFlagDF != 0
	if p == nil || whole && len(holes) > 0 {
		j.buf = s.srv.buffers.get(int(length))
		p = *j.buf
		if holes, err = s.readFrom(ctx, p, off); err != nil {
			return err
		}
	}
	if err := checkHoles(holes, off, length); err != nil || int64(len(p)) != length {
		return errors.Join(fmt.Errorf("the backend read %d bytes of %d", len(p), length), err)
	}
	if whole {
		for _, h := range holes {
			clear(p[h.Offset-off : h.End()-off])
		}
		holes = nil
	}
	if !s.structured {
		j.head = appendSimple(j.head[:0], j.cookie, 0)
		j.iov = append(j.iov[:0], j.head, p)
		return nil
	}
	s.chunks(j, p, holes)
	return nil
}

// checkHoles sees that holes are as SparseReader promises.
func checkHoles(holes []ram.Extent, off, length int64) error {
	at := off
	for _, h := range holes {
		if h.Offset < at || h.Length <= 0 || h.Length > off+length-h.Offset {
			return fmt.Errorf("the backend has a hole of %d bytes at %d", h.Length, h.Offset)
		}
		at = h.End()
	}
	return nil
}

// chunks makes a structured reply of data with holes.
func (s *session) chunks(j *job, p []byte, holes []ram.Extent) {
	start := int64(j.offset)
	at, end := start, start+int64(j.length)
	j.iov = j.iov[:0]
	// Heads are cut out of one buffer that must not move meanwhile.
	const most = structuredLen + 12
	if need := most * (2*len(holes) + 1); cap(j.head) < need {
		j.head = make([]byte, 0, need)
	}
	heads := j.head[:0]
	piece := func(kind uint16, from, to int64) {
		c := chunk{kind: kind, cookie: j.cookie, length: 12}
		if kind == chunkData {
			c.length = uint32(8 + to - from)
		}
		if to == end {
			c.flags = chunkDone
		}
		mark := len(heads)
		heads = wire.AppendUint64(c.append(heads), uint64(from))
		if kind == chunkHole {
			heads = wire.AppendUint32(heads, uint32(to-from))
		}
		j.iov = append(j.iov, heads[mark:])
		if kind == chunkData {
			j.iov = append(j.iov, p[from-start:to-start])
		}
	}
	for _, h := range holes {
		if h.Offset > at {
			piece(chunkData, at, h.Offset)
		}
		piece(chunkHole, h.Offset, h.End())
		at = h.End()
	}
	if at < end {
		piece(chunkData, at, end)
	}
	j.head = heads
}

// fail prepares an answer that says what went wrong, in words too where the client takes them.
func (s *session) fail(j *job, errno Errno, text string) {
	if !s.structured {
		j.head = appendSimple(j.head[:0], j.cookie, errno)
	} else {
		text = text[:min(len(text), maxMessage)]
		c := chunk{flags: chunkDone, kind: chunkError, cookie: j.cookie, length: uint32(6 + len(text))}
		j.head = wire.AppendUint32(c.append(j.head[:0]), uint32(errno))
		j.head = append(wire.AppendUint16(j.head, uint16(len(text))), text...)
	}
	j.iov = append(j.iov[:0], j.head)
}

const maxStatuses = 1 << 16 // of one context in one reply

// doStatus answers block status: a chunk for each context.
func (s *session) doStatus(ctx context.Context, j *job) error {
	j.head = j.head[:0]
	for i, c := range s.contexts {
		list, err := s.statuses(ctx, c.name, j)
		if err != nil {
			return err
		}
		head := chunk{kind: chunkStatus, cookie: j.cookie, length: uint32(4 + 8*len(list))}
		if i == len(s.contexts)-1 {
			head.flags = chunkDone
		}
		j.head = wire.AppendUint32(head.append(j.head), c.id)
		for _, e := range list {
			j.head = wire.AppendUint32(wire.AppendUint32(j.head, uint32(e.Length)), e.Flags)
		}
	}
	j.iov = append(j.iov[:0], j.head)
	return nil
}

// statuses asks the backend and makes of its answer what the protocol allows: whole blocks, within 32 bits, alike ones
// joined, no more than was asked but for the last, and a single one if that was wanted.
func (s *session) statuses(ctx context.Context, name string, j *job) ([]Status, error) {
	off, left := int64(j.offset), int64(j.length)
	var list []Status
	var err error
	switch {
	case name == DirtyBitmap:
		list, err = s.dev.dirty.DirtyExtents(ctx, off, left)
	case s.dev.extent != nil:
		list, err = s.dev.extent.Extents(ctx, off, left)
	default:
		list = []Status{{Length: left}}
	}
	if err != nil {
		return nil, err
	}
	list, err = fit(list, left, j.flags&cmdFlagReqOne != 0)
	if block := int64(s.dev.MinBlock); err == nil && block > 1 {
		list = align(list, block, name == DirtyBitmap)
	}
	return list, err
}

func fit(list []Status, left int64, one bool) ([]Status, error) {
	var out []Status
	for _, e := range list {
		if e.Length <= 0 {
			return nil, fmt.Errorf("the backend has an extent of %d bytes", e.Length)
		}
		e.Length = min(e.Length, left)
		left -= e.Length
		if n := len(out); n > 0 && out[n-1].Flags == e.Flags {
			out[n-1].Length += e.Length
		} else if one && n == 1 || n == maxStatuses {
			break
		} else {
			out = append(out, e)
		}
		if left == 0 {
			break
		}
	}
	if len(out) == 0 {
		return nil, errors.New("the backend has no extents")
	}
	return out, nil
}

// align moves the ends of extents to whole blocks, on the safe side: what is in part dirty is dirty, and what is in part data
// is data. Backends whose extents are whole blocks get theirs back.
func align(list []Status, block int64, dirty bool) []Status {
	var out []Status
	emit := func(e Status) {
		if n := len(out); n > 0 && out[n-1].Flags == e.Flags {
			out[n-1].Length += e.Length
		} else if e.Length > 0 {
			out = append(out, e)
		}
	}
	var part Status // of a block
	for _, e := range list {
		if part.Length > 0 {
			n := min(e.Length, block-part.Length)
			part = Status{part.Length + n, both(part.Flags, e.Flags, dirty)}
			if e.Length -= n; part.Length < block {
				continue
			}
			emit(part)
		}
		emit(Status{e.Length / block * block, e.Flags})
		part = Status{e.Length % block, e.Flags}
	}
	if part.Length > 0 { // and nobody knows what the rest of it is
		rest := uint32(0)
		if dirty {
			rest = StatusDirty
		}
		emit(Status{block, both(part.Flags, rest, dirty)})
	}
	return out
}

func both(a, b uint32, dirty bool) uint32 {
	if dirty {
		return a | b
	}
	return a & b
}
