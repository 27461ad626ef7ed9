package qemuhost

import (
	"errors"
	"fmt"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// fail wraps err as the step op on a side. What is an OpError already keeps its own op and fix and gets the side if it
// has none.
func fail(op string, side migrate.Side, err error, fix string) error {
	var oe *migrate.OpError
	if errors.As(err, &oe) && oe.Side == "" {
		oe.Side = side
	}
	return migrate.Fail(op, side, err, fix)
}

// refuse is an OpError that blocks a migration before anything was touched.
func refuse(op string, side migrate.Side, what, fix string) error {
	return &migrate.OpError{Op: op, Side: side, Err: fmt.Errorf("%s: %w", what, migrate.ErrBlocked), Fix: fix}
}
