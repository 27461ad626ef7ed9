package nbd

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/pojntfx/go-nbd/pkg/protocol"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

const maxStatusReply = 8 << 20 // bytes of block status in one chunk

// serve sees that replies are read until the link is lost, and returns why.
func (l *link) serve() error {
	if !l.client.cfg.Direct {
		return l.read()
	}
	<-l.over // whoever calls Take reads
	return l.reason()
}

// read takes replies until the link is lost, and returns why.
func (l *link) read() error {
	for {
		if err := l.reply(); err != nil {
			if why := l.reason(); why != nil {
				return why // it was killed for that
			}
			if errors.Is(err, io.EOF) {
				err = errHungUp
			}
			return err
		}
	}
}

func (l *link) reply() error {
	magic, err := l.br.Peek(4)
	if err != nil {
		return err
	}
	switch wire.Uint32(magic) {
	case protocol.TRANSMISSION_MAGIC_REPLY:
		head, err := l.br.Peek(simpleLen)
		if err != nil {
			return err
		}
		errno, cookie := Errno(wire.Uint32(head[4:])), wire.Uint64(head[8:])
		_, _ = l.br.Discard(simpleLen) // it was peeked
		return l.simple(cookie, errno)
	case magicStructured:
		head, err := l.br.Peek(structuredLen)
		if err != nil {
			return err
		}
		c := parseChunk(head)
		_, _ = l.br.Discard(structuredLen) // it was peeked
		return l.chunk(c)
	}
	return fmt.Errorf("%w: a reply without its magic", errProtocol)
}

// find returns the call of a cookie. A reply to nothing means that the stream can no longer be trusted.
func (l *link) find(cookie uint64) (*call, error) {
	l.mu.Lock()
	k := l.calls[cookie]
	l.mu.Unlock()
	if k == nil {
		return nil, fmt.Errorf("%w: a reply to cookie %#x, which is not in flight", errProtocol, cookie)
	}
	return k, nil
}

func (l *link) simple(cookie uint64, errno Errno) error {
	k, err := l.find(cookie)
	if err != nil {
		return err
	}
	switch {
	case errno != 0:
		k.err = k.refused(errno, "")
	case k.cmd == cmdRead && !l.client.info.Structured:
		if err := l.fill(k, 0, k.length); err != nil {
			return err
		}
	case k.cmd == cmdRead || k.cmd == cmdBlockStatus:
		return fmt.Errorf("%w: a simple reply to command %d", errProtocol, k.cmd)
	}
	l.remove(k)
	l.finish(k)
	return nil
}

// chunk takes one part of a structured reply in.
func (l *link) chunk(c chunk) error {
	k, err := l.find(c.cookie)
	if err != nil {
		return err
	}
	switch {
	case c.kind == chunkNone && c.length == 0 && c.flags&chunkDone != 0:
	case c.kind == chunkData && k.cmd == cmdRead:
		err = l.data(k, c)
	case c.kind == chunkHole && k.cmd == cmdRead && c.length == 12:
		err = l.hole(k)
	case c.kind == chunkStatus && k.cmd == cmdBlockStatus:
		err = l.status(k, c)
	case c.kind&chunkErrFlag != 0:
		err = l.failed(k, c)
	default:
		err = fmt.Errorf("%w: a chunk of type %d and %d bytes for command %d", errProtocol, c.kind, c.length, k.cmd)
	}
	if err != nil || c.flags&chunkDone == 0 {
		return err
	}
	if k.err == nil {
		err = k.complete()
	}
	if err != nil {
		return err
	}
	l.remove(k)
	l.finish(k)
	return nil
}

// data reads a piece straight into the caller's buffer.
func (l *link) data(k *call, c chunk) error {
	if c.length <= 8 {
		return fmt.Errorf("%w: data of %d bytes", errProtocol, c.length)
	}
	head, err := l.br.Peek(8)
	if err != nil {
		return err
	}
	offset, length := wire.Uint64(head), c.length-8
	_, _ = l.br.Discard(8) // it was peeked
	at, err := k.piece(offset, length)
	if err != nil {
		return err
	}
	return l.fill(k, at, length)
}

func (l *link) hole(k *call) error {
	head, err := l.br.Peek(12)
	if err != nil {
		return err
	}
	offset, length := wire.Uint64(head), wire.Uint32(head[8:])
	_, _ = l.br.Discard(12) // it was peeked
	if _, err := k.piece(offset, length); err != nil {
		return err
	}
	k.holes = append(k.holes, ram.Extent{Offset: int64(offset), Length: int64(length)})
	return nil
}

// piece notes that a part of a read has come, and returns where it belongs in the buffer.
func (k *call) piece(offset uint64, length uint32) (at uint32, err error) {
	if length == 0 || offset < k.offset || offset-k.offset > uint64(k.length) || uint64(length) > uint64(k.length)-(offset-k.offset) {
		return 0, fmt.Errorf("%w: %d bytes at %d for a read of %d at %d", errProtocol, length, offset, k.length, k.offset)
	}
	e := ram.Extent{Offset: int64(offset), Length: int64(length)}
	if n := len(k.pieces); n > 0 && k.pieces[n-1].End() == e.Offset {
		k.pieces[n-1].Length += e.Length
	} else {
		k.pieces = append(k.pieces, e)
	}
	return uint32(offset - k.offset), nil
}

// complete sees that a structured reply left nothing out: a gap would be taken for data.
func (k *call) complete() error {
	switch k.cmd {
	case cmdRead:
		byOffset := func(a, b ram.Extent) int { return int(min(1, max(-1, a.Offset-b.Offset))) }
		slices.SortFunc(k.pieces, byOffset)
		at := int64(k.offset)
		for _, e := range k.pieces {
			if e.Offset != at {
				return fmt.Errorf("%w: a read with gaps or overlaps at %d", errProtocol, at)
			}
			at = e.End()
		}
		if at != int64(k.offset)+int64(k.length) {
			return fmt.Errorf("%w: a read that ends at %d", errProtocol, at)
		}
		slices.SortFunc(k.holes, byOffset)
	case cmdBlockStatus:
		if len(k.list) == 0 {
			return fmt.Errorf("%w: no block status", errProtocol)
		}
	}
	return nil
}

// fill reads n bytes into the call's buffer from at on, or past a call that nobody waits for.
func (l *link) fill(k *call, at, n uint32) error {
	l.mu.Lock()
	k.filling = !k.dropped
	into := k.filling
	l.mu.Unlock()
	if !into {
		_, err := l.br.Discard(int(n))
		return err
	}
	_, err := io.ReadFull(l.br, k.dst[at:at+n])
	l.mu.Lock()
	k.filling = false
	l.mu.Unlock()
	return err
}

// status reads what is said of one context.
func (l *link) status(k *call, c chunk) error {
	if c.length < 12 || c.length > maxStatusReply || c.length%8 != 4 {
		return fmt.Errorf("%w: block status of %d bytes", errProtocol, c.length)
	}
	var head [8]byte
	if _, err := io.ReadFull(l.br, head[:4]); err != nil {
		return err
	}
	wanted := l.contexts[wire.Uint32(head[:])] == k.want
	for n := (c.length - 4) / 8; n > 0; n-- {
		if _, err := io.ReadFull(l.br, head[:]); err != nil {
			return err
		}
		length := wire.Uint32(head[:])
		if length == 0 {
			return fmt.Errorf("%w: block status of nothing", errProtocol)
		}
		if wanted {
			k.list = append(k.list, Status{int64(length), wire.Uint32(head[4:])})
		}
	}
	return nil
}

// failed reads an error chunk. More chunks may follow, and change nothing.
func (l *link) failed(k *call, c chunk) error {
	if c.length < 6 || c.length > 6+maxMessage+8 {
		return fmt.Errorf("%w: an error of %d bytes", errProtocol, c.length)
	}
	p := make([]byte, c.length)
	if _, err := io.ReadFull(l.br, p); err != nil {
		return err
	}
	errno, text := Errno(wire.Uint32(p)), int(wire.Uint16(p[4:]))
	if errno == 0 || text > len(p)-6 {
		return fmt.Errorf("%w: an error without its number or text", errProtocol)
	}
	if k.err == nil {
		k.err = k.refused(errno, string(p[6:6+text]))
	}
	return nil
}

func (k *call) refused(errno Errno, text string) error {
	return &RemoteError{Op: opName(k.cmd), Offset: int64(k.offset), Length: int64(k.length), Errno: errno, Message: text}
}

func opName(cmd uint16) string {
	names := [...]string{"read", "write", "disconnect", "flush", "trim", "cache", "write-zeroes", "block-status"}
	if int(cmd) < len(names) {
		return names[cmd]
	}
	return fmt.Sprintf("command %d", cmd)
}
