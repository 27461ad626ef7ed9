package migrate

import (
	"errors"
	"strings"
)

// Sentinels that callers may look for with errors.Is. An *OpError wraps them.
var (
	// ErrNoDomain: the host knows no domain of that name.
	ErrNoDomain = errors.New("no such domain")
	// ErrNotSupported: this driver, QEMU or libvirt cannot do it; nothing was changed.
	ErrNotSupported = errors.New("not supported")
	// ErrBlocked: check found something that forbids the migration; nothing was changed.
	ErrBlocked = errors.New("blocked by check")
	// ErrCancelled: cancelled on request before the commit; the guest runs on the source.
	ErrCancelled = errors.New("cancelled")
	// ErrTimeLimit: a time limit was reached before the commit; the guest runs on the source.
	ErrTimeLimit = errors.New("time limit reached")
	// ErrPaused: past the commit the link broke; the destination owns the guest and the migration can be recovered.
	ErrPaused = errors.New("migration paused, recoverable")
	// ErrOwnerUnknown: the answer to the switch was lost; nobody may be resumed before both ends were asked.
	ErrOwnerUnknown = errors.New("owner of the guest unknown")
	// ErrNotLanded: the destination answered for certain that it does not and will not run the guest.
	ErrNotLanded = errors.New("the destination does not run the guest")
	// ErrLinkLost: the connection to a host or between the hosts is gone; what it was doing may or may not have happened.
	ErrLinkLost = errors.New("connection lost")
	// ErrMute: the guest's process on a host is seen to live and does not answer, so that it may run the guest, or begin to.
	ErrMute = errors.New("it lives and does not answer")
	// ErrBusy: another coordinator holds this guest, or a job is already running on it.
	ErrBusy = errors.New("another migration holds this guest")
)

// OpError is the error of a step of a migration. It tells what was done, in which phase and on which side, why it
// failed and what a user can do. Who owns the guest is the Report's and Outcome's to say when the step was undone;
// Owner holds it where the step itself decides it.
type OpError struct {
	// Op is the step in a few words, such as "start the destination's QEMU".
	Op string
	// Phase is the phase it failed in; zero where no migration runs (a look-up, a dial).
	Phase Phase
	// Side is the end it failed on; empty if it is neither.
	Side Side
	// Owner is who may run the guest after the failure; zero if the step does not bear on it.
	Owner Owner
	// Err is the cause.
	Err error
	// Fix is one line that tells what to do; empty if nothing is known.
	Fix string
}

// Error gives the op, the side and the cause on one line. The fix is separate, so that a command line can show it
// on a line of its own.
func (e *OpError) Error() string {
	var b strings.Builder
	if e.Phase != 0 {
		b.WriteString(e.Phase.String())
		b.WriteString(": ")
	}
	b.WriteString(e.Op)
	if e.Side != "" {
		b.WriteString(" (")
		b.WriteString(string(e.Side))
		b.WriteString(")")
	}
	if e.Err != nil {
		b.WriteString(": ")
		b.WriteString(e.Err.Error())
	}
	return b.String()
}

// Unwrap gives the cause.
func (e *OpError) Unwrap() error { return e.Err }

// Fail wraps err as an OpError and returns nil for nil, so that call sites stay one line. An err that already is an
// OpError keeps its own op, side and fix; only a missing phase is filled in by the coordinator.
func Fail(op string, side Side, err error, fix string) error {
	if err == nil {
		return nil
	}
	var oe *OpError
	if errors.As(err, &oe) {
		return err
	}
	return &OpError{Op: op, Side: side, Err: err, Fix: fix}
}

// FixOf gives the fix that the outermost OpError with one suggests, or "".
func FixOf(err error) string {
	for err != nil {
		var oe *OpError
		if !errors.As(err, &oe) {
			return ""
		}
		if oe.Fix != "" {
			return oe.Fix
		}
		err = oe.Err
	}
	return ""
}

// Sentinels of the coordinator and its journal.
var (
	// ErrDetached: the caller stopped waiting after the commit; the migration goes on and can be attached to again.
	ErrDetached = errors.New("detached, the migration goes on")
	// ErrNotUndone: the source owns the guest, but it was not seen to run there again.
	ErrNotUndone = errors.New("the guest was not seen to run on the source again")
	// ErrNotReleased: the destination owns the guest, but the source could not be released.
	ErrNotReleased = errors.New("the source was not released")
	// ErrNotBegun: something stood in the way before the first step; nothing was changed.
	ErrNotBegun = errors.New("the migration did not begin")
	// ErrNoMigration: the journal knows no such migration.
	ErrNoMigration = errors.New("no such migration")
)
