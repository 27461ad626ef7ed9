package main

import (
	"errors"
	"fmt"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// The exit codes are a contract with scripts.
const (
	exitDone     = 0
	exitFailure  = 1
	exitUsage    = 2
	exitBlocked  = 3
	exitSource   = 4 // failed or cancelled, the source runs
	exitLimit    = 5 // time limit reached, the source runs
	exitPaused   = 6 // paused, recoverable
	exitUnknown  = 7 // owner unknown
	exitCodeHelp = `Exit codes: 0 done, 1 other failure, 2 usage, 3 blocked by check,
4 failed or cancelled and the source runs, 5 time limit reached and the source
runs, 6 paused and recoverable, 7 owner unknown.`
)

// usageError is a mistake in the command line.
type usageError struct{ err error }

func (u usageError) Error() string { return u.err.Error() }
func (u usageError) Unwrap() error { return u.err }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// codeError carries an exit code whose reason was already shown.
type codeError int

func (c codeError) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// exitCode maps an error that no report goes with.
func exitCode(err error) int {
	var code codeError
	var usage usageError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, migrate.ErrBlocked):
		return exitBlocked
	case errors.Is(err, migrate.ErrPaused):
		return exitPaused
	case errors.Is(err, migrate.ErrOwnerUnknown):
		return exitUnknown
	}
	return exitFailure
}
