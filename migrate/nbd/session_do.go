package nbd

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// check refuses what cannot be done, before anything is allocated for it.
func (s *session) check(r request) (Errno, string) {
	d := s.dev
	if errno, text := s.checkFlags(r); errno != 0 {
		return errno, text
	}
	switch r.cmd {
	case cmdFlush:
		return 0, ""
	case cmdRead, cmdWrite, cmdTrim, cmdWriteZeroes, cmdCache, cmdBlockStatus:
	default:
		return EINVAL, fmt.Sprintf("no command %d", r.cmd)
	}
	changes := r.cmd == cmdWrite || r.cmd == cmdTrim || r.cmd == cmdWriteZeroes
	mask := uint64(d.MinBlock - 1)
	switch {
	case changes && d.ReadOnly:
		return EPERM, "the export is read-only"
	case r.length == 0:
		return EINVAL, "a length of zero"
	case (r.cmd == cmdRead || r.cmd == cmdWrite) && r.length > d.MaxBlock:
		return EOVERFLOW, fmt.Sprintf("more than %d bytes at once", d.MaxBlock)
	case r.offset > uint64(d.size) || uint64(r.length) > uint64(d.size)-r.offset:
		if changes {
			return ENOSPC, "behind the end of the export"
		}
		return EINVAL, "behind the end of the export"
	case r.offset&mask != 0 || uint64(r.length)&mask != 0:
		return EINVAL, fmt.Sprintf("not whole blocks of %d bytes", d.MinBlock)
	case r.cmd == cmdBlockStatus && len(s.contexts) == 0:
		return EINVAL, "no context was negotiated"
	case r.cmd == cmdTrim && d.trim == nil:
		return EINVAL, "trim was not offered"
	}
	return 0, ""
}

// checkFlags refuses flags that a command does not have.
func (s *session) checkFlags(r request) (Errno, string) {
	allowed := cmdFlagFUA // by the protocol on any command, though it means something on few
	switch r.cmd {
	case cmdRead:
		if s.structured {
			allowed |= cmdFlagDF
		}
	case cmdWriteZeroes:
		allowed |= cmdFlagNoHole | cmdFlagFastZero
	case cmdBlockStatus:
		allowed |= cmdFlagReqOne
	}
	if r.flags&^allowed != 0 {
		return EINVAL, fmt.Sprintf("flags %#x do not go with command %d", r.flags, r.cmd)
	}
	return 0, ""
}

// do carries a checked request out and prepares its reply.
func (s *session) do(ctx context.Context, j *job) {
	defer func() {
		if v := recover(); v != nil { // a backend's fault must not end all the other guests' connections
			s.srv.log.Error("nbd backend panicked", "export", s.dev.Name, "panic", v)
			s.fail(j, EIO, "the backend failed badly")
			j.end = true
		}
	}()
	var err error
	switch j.cmd {
	case cmdRead:
		if err = s.doRead(ctx, j); err == nil {
			return
		}
	case cmdBlockStatus:
		if err = s.doStatus(ctx, j); err == nil {
			return
		}
	default:
		err = s.doChange(ctx, j)
	}
	if err != nil {
		s.srv.log.Debug("nbd request failed", "export", s.dev.Name, "command", j.cmd, "offset", j.offset, "length", j.length, "err", err)
		s.fail(j, errnoOf(err), err.Error())
		return
	}
	j.head = appendSimple(j.head[:0], j.cookie, 0)
	j.iov = append(j.iov[:0], j.head)
}

// doChange carries out what has no data to answer.
func (s *session) doChange(ctx context.Context, j *job) (err error) {
	off, length := int64(j.offset), int64(j.length)
	switch j.cmd {
	case cmdWrite:
		if !j.here {
			err = s.write(ctx, *j.buf, off)
		}
	case cmdWriteZeroes:
		err = s.writeZeroes(ctx, j)
	case cmdTrim:
		err = s.dev.trim.Trim(ctx, off, length)
	case cmdCache:
		if s.dev.cache != nil {
			err = s.dev.cache.Cache(ctx, off, length)
		}
		return err
	case cmdFlush:
		return s.dev.Backend.Sync()
	}
	if err == nil && j.flags&cmdFlagFUA != 0 {
		err = s.dev.Backend.Sync()
	}
	return err
}

func (s *session) write(ctx context.Context, p []byte, off int64) error {
	var n int
	var err error
	if s.dev.ctxio != nil {
		n, err = s.dev.ctxio.WriteAtContext(ctx, p, off)
	} else {
		n, err = s.dev.Backend.WriteAt(p, off)
	}
	if err == nil && n != len(p) {
		err = io.ErrShortWrite
	}
	return err
}

// writeZeroes lets the backend do it, or sends it zeroes unless that was to be quick.
func (s *session) writeZeroes(ctx context.Context, j *job) error {
	off, length := int64(j.offset), int64(j.length)
	if s.dev.zero != nil {
		err := s.dev.zero.WriteZeroes(ctx, off, length, j.flags&cmdFlagNoHole == 0)
		if !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
	}
	if j.flags&cmdFlagFastZero != 0 {
		return ENOTSUP
	}
	buf := s.srv.buffers.get(int(min(length, 1<<20)))
	defer s.srv.buffers.put(buf)
	clear(*buf)
	for length > 0 {
		n := min(length, int64(len(*buf)))
		if err := s.write(ctx, (*buf)[:n], off); err != nil {
			return err
		}
		off, length = off+n, length-n
	}
	return nil
}

// readFrom fills p from the backend; holes are what it knows to be zero.
func (s *session) readFrom(ctx context.Context, p []byte, off int64) (holes []ram.Extent, err error) {
	if s.dev.sparse != nil {
		return s.dev.sparse.ReadSparse(ctx, p, off)
	}
	var n int
	if s.dev.ctxio != nil {
		n, err = s.dev.ctxio.ReadAtContext(ctx, p, off)
	} else {
		n, err = s.dev.Backend.ReadAt(p, off)
	}
	switch {
	case n == len(p):
		return nil, nil // with io.EOF, perhaps
	case err == nil || errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%w: the backend ends within its size", io.ErrUnexpectedEOF)
	}
	return nil, err
}
