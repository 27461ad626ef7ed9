package nbd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
)

// Errno is an error as the protocol numbers it. The numbers are Linux's, on every system.
type Errno uint32

// All the errors that the protocol knows.
const (
	EPERM     Errno = 1
	EIO       Errno = 5
	ENOMEM    Errno = 12
	EINVAL    Errno = 22
	ENOSPC    Errno = 28
	EOVERFLOW Errno = 75
	ENOTSUP   Errno = 95
	ESHUTDOWN Errno = 108
)

func (e Errno) Error() string {
	switch e {
	case EPERM:
		return "operation not permitted (EPERM)"
	case EIO:
		return "input/output error (EIO)"
	case ENOMEM:
		return "out of memory (ENOMEM)"
	case EINVAL:
		return "invalid argument (EINVAL)"
	case ENOSPC:
		return "no space left on device (ENOSPC)"
	case EOVERFLOW:
		return "value too large (EOVERFLOW)"
	case ENOTSUP:
		return "operation not supported (ENOTSUP)"
	case ESHUTDOWN:
		return "server is shutting down (ESHUTDOWN)"
	}
	return fmt.Sprintf("error %d", uint32(e))
}

// Is makes an Errno that came over the wire the same to errors.Is as the system's error of that meaning.
func (e Errno) Is(target error) bool {
	local, ok := target.(syscall.Errno)
	if !ok {
		return e == ENOTSUP && target == errors.ErrUnsupported || e == EPERM && target == fs.ErrPermission
	}
	known, ok := fromSystem(local)
	return ok && known == e && e != 0
}

// RemoteError is what a server answered to a request: the link is fine, the request was refused or failed.
type RemoteError struct {
	// Op is the request, such as "read".
	Op string
	// Offset and Length are its range, in bytes.
	Offset, Length int64
	// Errno is the server's error.
	Errno Errno
	// Message is the server's text, if it sent one.
	Message string
}

func (e *RemoteError) Error() string {
	text := fmt.Sprintf("nbd %s of %d bytes at %d: server: %v", e.Op, e.Length, e.Offset, e.Errno)
	if e.Message != "" {
		text += ": " + e.Message
	}
	return text
}

func (e *RemoteError) Unwrap() error { return e.Errno }

// fromSystem is the protocol's number for an error of the system; false where it has none of its own.
func fromSystem(e syscall.Errno) (Errno, bool) {
	switch e {
	case 0:
		return 0, true
	case syscall.EPERM, syscall.EACCES, syscall.EROFS:
		return EPERM, true
	case syscall.ENOMEM:
		return ENOMEM, true
	case syscall.EINVAL:
		return EINVAL, true
	case syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG:
		return ENOSPC, true
	case syscall.EOVERFLOW:
		return EOVERFLOW, true
	case syscall.EOPNOTSUPP, syscall.ENOSYS:
		return ENOTSUP, true
	case syscall.ESHUTDOWN:
		return ESHUTDOWN, true
	case syscall.EIO:
		return EIO, true
	}
	return EIO, false
}

// errnoOf is what a client is told of a backend's error.
func errnoOf(err error) Errno {
	var (
		wired  Errno
		system syscall.Errno
	)
	switch {
	case err == nil:
		return 0
	case errors.As(err, &wired):
		return wired
	case errors.As(err, &system):
		e, _ := fromSystem(system)
		return e
	case errors.Is(err, errors.ErrUnsupported):
		return ENOTSUP
	case errors.Is(err, fs.ErrPermission):
		return EPERM
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return ESHUTDOWN
	}
	return EIO
}
