package storage

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// Error says what could not be done with an image, and what to do about it.
type Error struct {
	Op, Path string
	Err      error
	// Fix is what a person can do; empty if there is nothing to say.
	Fix string
}

func (e *Error) Error() string { return fmt.Sprintf("%s %s: %v", e.Op, e.Path, e.Err) }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

var (
	// ErrExists: there is a file of that name, which is never overwritten.
	ErrExists = errors.New("there is a file of that name already")
	// ErrNoRoom: the file system has too little space, or the owner's quota is used up.
	ErrNoRoom = errors.New("too little space")
	// ErrInUse: somebody has the image open and holds QEMU's locks on it.
	ErrInUse = errors.New("it is in use")
	// ErrForeign: what is there is not what was made.
	ErrForeign = errors.New("it is another file than the one that was made")
	// ErrNoTool: qemu-img is not installed.
	ErrNoTool = errors.New("qemu-img is not installed")
	// ErrUnsupported: an image of that kind cannot be made.
	ErrUnsupported = errors.New("cannot be made")
)

// fail wraps an error of the system with its usual fix; one of ours is left as it is.
func fail(op, path string, err error) error {
	var own *Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &own):
		return err
	case errors.Is(err, ErrNoRoom), errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		if !errors.Is(err, ErrNoRoom) {
			err = fmt.Errorf("%w: %w", ErrNoRoom, err)
		}
		return &Error{op, path, err, "free some space there, or raise the quota, or give the disk another path with --disk"}
	case errors.Is(err, ErrExists), errors.Is(err, syscall.EEXIST):
		if !errors.Is(err, ErrExists) {
			err = fmt.Errorf("%w: %w", ErrExists, err)
		}
		return &Error{op, path, err, "move it away, or give the disk another path with --disk"}
	case errors.Is(err, syscall.ENOENT):
		return &Error{op, path, err, "make its folder there, or give the disk another path with --disk"}
	case errors.Is(err, syscall.EROFS), errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return &Error{op, path, err, "let the folder be written to, or give the disk another path with --disk"}
	}
	return &Error{op, path, err, ""}
}

// saidBy makes an error of what a tool said before it failed, with the errno that its words stand for.
func saidBy(words string, err error) error {
	words = strings.TrimSpace(strings.ToValidUTF8(words, "?"))
	if words == "" {
		return err
	}
	for _, no := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.ENOENT, syscall.EACCES, syscall.EROFS} {
		if strings.HasSuffix(strings.ToLower(words), strings.ToLower(no.Error())) {
			return fmt.Errorf("%s (%w)", words, no)
		}
	}
	return fmt.Errorf("%s (%w)", words, err)
}
