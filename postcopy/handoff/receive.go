package handoff

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// Handover is what was handed over.
type Handover struct {
	// Fault is the userfaultfd, armed by the other process for missing pages. It does not block.
	Fault *sys.UserFault
	// Regions are the mappings it watches, at least one.
	Regions []Region
}

// Blocks are the regions as RAM blocks, in their order, named region0, region1, ….
func (h *Handover) Blocks() []ram.Block {
	out := make([]ram.Block, 0, len(h.Regions))
	for i, r := range h.Regions {
		out = append(out, r.block(i))
	}
	return out
}

// Addrs are the addresses of the regions, in their order.
func (h *Handover) Addrs() []uint64 {
	out := make([]uint64, 0, len(h.Regions))
	for _, r := range h.Regions {
		out = append(out, r.Addr)
	}
	return out
}

// Close gives the descriptor back; again is fine. It has to come after the pager's Close.
func (h *Handover) Close() error { return h.Fault.Close() }

// Receive takes over in Firecracker's form. The connection stays open and the caller's; after an error it is of no
// further use. It returns soon when ctx ends, with its error.
func Receive(ctx context.Context, conn *net.UnixConn) (*Handover, error) {
	return receive(ctx, conn, func(r *receiver) ([]Region, error) {
		text, err := r.readJSON()
		if err != nil {
			return nil, err
		}
		return DecodeRegions(text)
	})
}

// ReceiveTransfer takes over from the transfer package of userfaultfd-go. Length is that of the mapping in bytes, which
// the other end does not tell; it is rounded up to whole pages of 4096, as its mapper does.
func ReceiveTransfer(ctx context.Context, conn *net.UnixConn, length int64) (*Handover, error) {
	if length <= 0 || length > maxOffset {
		return nil, fmt.Errorf("take over a userfaultfd: a mapping of %d bytes", length)
	}
	return receive(ctx, conn, func(r *receiver) ([]Region, error) {
		head := make([]byte, 9) // the address, and one byte that carries the descriptors
		if err := r.readFull(head); err != nil {
			return nil, err
		}
		size := (length + basePage - 1) / basePage * basePage
		regions := []Region{{Addr: binary.BigEndian.Uint64(head), Size: size, PageSize: basePage}}
		return regions, check(regions)
	})
}

// receive runs one conversation and keeps what it got only if all of it is right.
func receive(ctx context.Context, conn *net.UnixConn, talk func(*receiver) ([]Region, error)) (_ *Handover, err error) {
	// A deadline that has passed ends a read that is under way.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	r := &receiver{conn: conn}
	regions, err := talk(r)
	if !stop() && err != nil {
		err = errors.Join(context.Cause(ctx), err)
	}
	fd, fdErr := r.userfault()
	if err = errors.Join(err, fdErr); err != nil {
		if fd >= 0 {
			_ = syscall.Close(fd) // nobody will use it; the error that counts is the one above
		}
		return nil, fmt.Errorf("take over a userfaultfd: %w", err)
	}
	return &Handover{Fault: sys.UserFaultFromFD(fd), Regions: regions}, nil
}

// receiver reads bytes and collects the descriptors that come with them.
type receiver struct {
	conn *net.UnixConn
	fds  []int
}

// maxFDs is how many descriptors one message can carry at most: SCM_MAX_FD of the kernel.
const maxFDs = 253

func (r *receiver) read(p []byte) (int, error) {
	oob := make([]byte, syscall.CmsgSpace(4*maxFDs))
	n, oobn, flags, _, err := r.conn.ReadMsgUnix(p, oob)
	if fdErr := r.collect(oob[:max(0, oobn)]); err == nil {
		err = fdErr
	}
	switch {
	case err != nil:
		return n, err
	case flags&syscall.MSG_CTRUNC != 0:
		return n, errors.New("descriptors were lost on the way")
	case n == 0:
		return 0, io.ErrUnexpectedEOF
	}
	return n, nil
}

// collect keeps the descriptors of a message.
func (r *receiver) collect(oob []byte) error {
	if len(oob) == 0 {
		return nil
	}
	msgs, err := syscall.ParseSocketControlMessage(oob)
	for i := range msgs {
		fds, fdErr := syscall.ParseUnixRights(&msgs[i])
		if errors.Is(fdErr, syscall.EINVAL) {
			continue // another kind of message, such as credentials
		}
		r.fds = append(r.fds, fds...)
	}
	return err
}

func (r *receiver) readFull(p []byte) error {
	for len(p) > 0 {
		n, err := r.read(p)
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// readJSON reads until what came is one whole value, in however many pieces.
func (r *receiver) readJSON() ([]byte, error) {
	var text []byte
	buf := make([]byte, 8<<10)
	for {
		n, err := r.read(buf)
		if err != nil {
			if len(text) > 0 {
				err = fmt.Errorf("after %d bytes that are no list of regions yet: %w", len(text), err)
			}
			return nil, err
		}
		text = append(text, buf[:n]...)
		if len(text) > maxMessage {
			return nil, fmt.Errorf("more than %d bytes that are no list of regions", maxMessage)
		}
		if json.Valid(text) {
			return text, nil
		}
	}
}

// userfault is the one userfaultfd among the descriptors, made non-blocking, or -1. All others are closed.
func (r *receiver) userfault() (fd int, err error) {
	fd = -1
	found := 0
	for _, n := range r.fds {
		if isUserfault(n) && found == 0 {
			fd, found = n, 1
			continue
		} else if isUserfault(n) {
			found++
		}
		_ = syscall.Close(n) // a stranger's
	}
	if found != 1 {
		return fd, fmt.Errorf("%d of %d descriptors that came are a userfaultfd, not one", found, len(r.fds))
	}
	if err := syscall.SetNonblock(fd, true); err != nil {
		return fd, fmt.Errorf("make the userfaultfd non-blocking: %w", err)
	}
	return fd, nil
}

func isUserfault(fd int) bool {
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	return err == nil && strings.Contains(name, "[userfaultfd]")
}
