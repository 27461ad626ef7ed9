package qmp

import (
	"errors"
	"fmt"
)

// Reasons for which a connection ends or a request is refused. They are matched
// with errors.Is; what a method returns usually says more.
var (
	// ErrClosed means that our own side closed the client or the subscription.
	ErrClosed = errors.New("closed by this side")
	// ErrPeerClosed means that QEMU closed the connection: it quit, it was
	// killed, or its monitor was taken away.
	ErrPeerClosed = errors.New("QEMU closed the connection")
	// ErrTooLarge means that one message exceeded the client's limit.
	ErrTooLarge = errors.New("message exceeds the size limit")
	// ErrNoOOB means that out-of-band execution was not negotiated.
	ErrNoOOB = errors.New("out-of-band execution was not negotiated with QEMU")
	// ErrNoDescriptors means that the connection cannot carry descriptors: it is
	// not a unix socket.
	ErrNoDescriptors = errors.New("the connection cannot carry file descriptors")
)

// Error classes that QEMU uses. Nearly everything is a GenericError, told apart
// by its text alone.
const (
	ClassGeneric         = "GenericError"
	ClassCommandNotFound = "CommandNotFound"
	ClassDeviceNotActive = "DeviceNotActive"
	ClassDeviceNotFound  = "DeviceNotFound"
	ClassKVMMissingCap   = "KVMMissingCap"
)

// Error is QEMU's own answer to a command that it refused or that failed.
type Error struct {
	// Class is one of the Class constants, or a newer QEMU's.
	Class string
	// Desc is QEMU's text, meant for people. It may change between versions.
	Desc string
	// Command is the name of the command that was answered.
	Command string
}

// Error gives the command, the class and QEMU's text.
func (e *Error) Error() string {
	return fmt.Sprintf("qmp: %s: %s: %s", e.Command, e.Class, e.Desc)
}

// Is reports whether target is an *Error whose non-empty fields all equal e's,
// so that errors.Is(err, &Error{Class: ClassCommandNotFound}) asks for a class.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	if !ok {
		return false
	}
	return (t.Class == "" || t.Class == e.Class) &&
		(t.Desc == "" || t.Desc == e.Desc) &&
		(t.Command == "" || t.Command == e.Command)
}

// IsCommandNotFound reports whether QEMU does not know the command.
func IsCommandNotFound(err error) bool { return isClass(err, ClassCommandNotFound) }

// IsDeviceNotFound reports whether QEMU does not know the device or node named.
// Many commands report that as a GenericError instead.
func IsDeviceNotFound(err error) bool { return isClass(err, ClassDeviceNotFound) }

// IsDeviceNotActive reports whether the device has nothing to act upon, such as
// a block device without a job.
func IsDeviceNotActive(err error) bool { return isClass(err, ClassDeviceNotActive) }

// isClass reports whether err is QEMU's, of the given class.
func isClass(err error, class string) bool { return errors.Is(err, &Error{Class: class}) }

// CallError says that a command got no answer from QEMU. Err holds the cause:
// the context's error, or what ended the connection.
type CallError struct {
	// Command is the name of the command.
	Command string
	// Sent tells whether QEMU may have seen the command. While it is false the
	// command was not and will never be run. While it is true it may have run,
	// may be running or may yet run: ask QEMU before acting on its outcome.
	Sent bool
	// Err is the cause.
	Err error
}

// Error says whether the command was sent and why there is no answer.
func (e *CallError) Error() string {
	what := "not sent"
	if e.Sent {
		what = "no reply, it may have run"
	}
	return fmt.Sprintf("qmp: %s: %s: %v", e.Command, what, e.Err)
}

// Unwrap gives the cause.
func (e *CallError) Unwrap() error { return e.Err }

// ProtocolError says that what the peer sent is not QMP. The connection ends
// with it, as nothing after it could be trusted.
type ProtocolError struct {
	// Reason says what was wrong.
	Reason string
	// Sample is the beginning of the message, at most 64 bytes.
	Sample []byte
	// Err is the cause, if there is one beneath: ErrTooLarge or a JSON error.
	Err error
}

// Error gives the reason and the beginning of the message.
func (e *ProtocolError) Error() string {
	s := "qmp: protocol error: " + e.Reason
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	if len(e.Sample) > 0 {
		s += fmt.Sprintf(" (message begins %q)", e.Sample)
	}
	return s
}

// Unwrap gives the cause beneath, if any.
func (e *ProtocolError) Unwrap() error { return e.Err }

// sampleSize bounds how much of a bad message an error carries.
const sampleSize = 64

// protocolError builds a ProtocolError with a copied sample of msg.
func protocolError(reason string, msg []byte, err error) *ProtocolError {
	n := min(len(msg), sampleSize)
	return &ProtocolError{Reason: reason, Sample: append([]byte(nil), msg[:n]...), Err: err}
}
