package nbd

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// maxPiece is the largest request that is sent as one; more is cut up, and in flight at once.
const maxPiece = 1 << 20

// ReadAt fills p from off. Unlike io.ReaderAt's it reads all or fails.
func (c *Client) ReadAt(ctx context.Context, p []byte, off int64) error {
	_, err := c.ReadSparse(ctx, p, off)
	return err
}

// ReadSparse is ReadAt, and also returns the runs that the server did not send because they are zero: absolute, in order, not
// overlapping. A server without structured replies sends all.
func (c *Client) ReadSparse(ctx context.Context, p []byte, off int64) (holes []ram.Extent, err error) {
	holes, err = c.ReadData(ctx, p, off)
	if err != nil {
		return nil, err
	}
	for _, h := range holes {
		clear(p[h.Offset-off : h.End()-off])
	}
	return holes, nil
}

// ReadData is ReadSparse, but leaves p as it was where there are holes: for those who put holes elsewhere as holes.
func (c *Client) ReadData(ctx context.Context, p []byte, off int64) (holes []ram.Extent, err error) {
	if err := c.within("read", off, int64(len(p))); err != nil {
		return nil, err
	}
	if len(p) == 0 {
		return nil, nil
	}
	if len(p) <= c.piece() {
		k := newCall(cmdRead, off, int64(len(p)))
		k.dst = p
		if err := c.do(ctx, k); err != nil {
			return nil, err // a call that was given up is still the link's
		}
		return k.holes, nil
	}
	err = c.pieces(ctx, off, int64(len(p)), func(at, n int64) *call {
		k := newCall(cmdRead, at, n)
		k.dst = p[at-off:][:n]
		return k
	}, func(k *call) {
		holes = append(holes, k.holes...)
	})
	return holes, err
}

// WriteAt writes p at off. When the link is lost it fails with ErrLinkLost, and some of it may have been written.
func (c *Client) WriteAt(ctx context.Context, p []byte, off int64) error {
	if err := c.within("write", off, int64(len(p))); err != nil || len(p) == 0 {
		return err
	}
	return c.pieces(ctx, off, int64(len(p)), func(at, n int64) *call {
		k := newCall(cmdWrite, at, n)
		k.src = p[at-off:][:n]
		return k
	}, nil)
}

// WriteZeroes makes a range read as zero. Only when punch is set may the server give the storage back.
func (c *Client) WriteZeroes(ctx context.Context, off, length int64, punch bool) error {
	return c.ranged(ctx, cmdWriteZeroes, off, length, func(k *call) {
		if !punch {
			k.flags |= cmdFlagNoHole
		}
	})
}

// Trim tells the server that a range is no longer needed; what it reads as afterwards is not known.
func (c *Client) Trim(ctx context.Context, off, length int64) error {
	return c.ranged(ctx, cmdTrim, off, length, nil)
}

// Cache tells the server that a range will soon be read.
func (c *Client) Cache(ctx context.Context, off, length int64) error {
	return c.ranged(ctx, cmdCache, off, length, nil)
}

// Flush makes what was written durable. If a connection was lost after writes that were acknowledged and not flushed, it
// fails once with ErrLinkLost: the server may have been another one since, that never saw them.
func (c *Client) Flush(ctx context.Context) error {
	if c.unsure.Swap(false) {
		c.unflushed.Store(false)
		return fmt.Errorf("%w: nbd flush: a connection was lost after writes that had not been flushed", ErrLinkLost)
	}
	dirty := c.unflushed.Swap(false)
	err := c.do(ctx, newCall(cmdFlush, 0, 0))
	if err != nil && dirty {
		c.unflushed.Store(true)
	}
	return err
}

// BlockStatus says what a context tells of a range: runs in order without a gap, that cover it exactly.
func (c *Client) BlockStatus(ctx context.Context, name string, off, length int64) ([]Status, error) {
	if err := c.within("block-status", off, length); err != nil {
		return nil, err
	}
	if !slices.Contains(c.info.Contexts, name) {
		return nil, fmt.Errorf("nbd export %q has no context %q: %w", c.cfg.Export, name, errors.ErrUnsupported)
	}
	var out []Status
	for length > 0 {
		k := newCall(cmdBlockStatus, off, min(length, c.most()))
		k.want = name
		if err := c.do(ctx, k); err != nil {
			return nil, err
		}
		for _, e := range k.list {
			e.Length = min(e.Length, length)
			off, length = off+e.Length, length-e.Length
			if n := len(out); n > 0 && out[n-1].Flags == e.Flags {
				out[n-1].Length += e.Length
			} else if e.Length > 0 {
				out = append(out, e)
			}
		}
	}
	return out, nil
}

// piece is the most that is read or written by one request.
func (c *Client) piece() int { return int(min(c.info.MaxBlock, maxPiece)) }

// most is the longest range that a request without data may name: whole blocks within 32 bits.
func (c *Client) most() int64 { return 1<<32 - 64<<10 }

func (c *Client) within(op string, off, length int64) error {
	if off < 0 || length < 0 || off > c.info.Size || length > c.info.Size-off {
		return fmt.Errorf("nbd %s of %d bytes at %d: behind the end of export %q, which has %d bytes: %w", op, length, off, c.cfg.Export, c.info.Size, EINVAL)
	}
	return nil
}

// ranged carries out a command without data on a range, cut up where it is longer than a request can say.
func (c *Client) ranged(ctx context.Context, cmd uint16, off, length int64, mod func(*call)) error {
	if err := c.within(opName(cmd), off, length); err != nil {
		return err
	}
	for length > 0 {
		k := newCall(cmd, off, min(length, c.most()))
		if mod != nil {
			mod(k)
		}
		if err := c.do(ctx, k); err != nil {
			return err
		}
		off, length = off+int64(k.length), length-int64(k.length)
	}
	return nil
}

// pieces cuts a range up, has all of it in flight as far as the window allows, and returns the first error when nothing is.
func (c *Client) pieces(ctx context.Context, off, length int64, call1 func(at, n int64) *call, each func(*call)) error {
	step := int64(c.piece())
	if length <= step {
		return c.do(ctx, call1(off, length))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	count := int((length + step - 1) / step)
	calls := make([]*call, 0, count)
	ended := make(chan error, count)
	for at := off; at < off+length; at += step {
		k := call1(at, min(step, off+length-at))
		calls = append(calls, k)
		go func() { ended <- c.do(ctx, k) }() // waited for below
	}
	var first error
	for range count {
		if err := <-ended; err != nil && first == nil {
			first = err
			cancel()
		}
	}
	for _, k := range calls {
		if first == nil && each != nil {
			each(k)
		}
	}
	return first
}

func newCall(cmd uint16, off, length int64) *call {
	return &call{request: request{cmd: cmd, offset: uint64(off), length: uint32(length)}, done: make(chan struct{}, 1)}
}

// repeatable is whether a command may be sent again when nobody knows whether it took place.
func (k *call) repeatable() bool {
	return k.cmd == cmdRead || k.cmd == cmdBlockStatus || k.cmd == cmdCache
}

// data is how much of the window a call takes.
func (k *call) data() int64 {
	if k.cmd == cmdRead || k.cmd == cmdWrite {
		return int64(k.length)
	}
	return 0
}

// do sends a call and waits for its answer, again over another connection if it may be.
func (c *Client) do(ctx context.Context, k *call) error {
	room := k.data()
	if err := c.window.take(ctx, room); err != nil {
		return err
	}
	for {
		l, err := c.pick(ctx)
		if err == nil {
			if err = l.start(k); err == nil {
				err = l.wait(ctx, k)
			}
		}
		if k.dropped {
			return err // the reader gives the room back
		}
		if err != errLost { //nolint:errorlint // it is never wrapped
			c.window.give(room)
			if err == nil && (k.cmd == cmdWrite || k.cmd == cmdWriteZeroes || k.cmd == cmdTrim) {
				c.unflushed.Store(true)
			}
			return err
		}
		if started := k.finished; started && !k.repeatable() {
			c.window.give(room)
			if c.ctx.Err() != nil {
				return ErrClientClosed
			}
			return fmt.Errorf("%w during nbd %s of %d bytes at %d: %w", ErrLinkLost, opName(k.cmd), k.length, k.offset, l.reason())
		}
		k.again(c.info.whole)
	}
}

// lossesToAskWhole is how many connections a read has to lose to be asked for in one part.
const lossesToAskWhole = 2

// again makes a call ready to be sent once more. QEMU's server hangs up, rather than saying so, when it cannot read something
// that it would answer in parts: if that may be why, it is asked for in one.
func (k *call) again(whole bool) {
	if k.losses++; whole && k.cmd == cmdRead && k.losses >= lossesToAskWhole {
		k.flags |= cmdFlagDF
	}
	k.err, k.finished, k.holes, k.pieces, k.list = nil, false, nil, nil, nil
}
