package qemuhost

import (
	"context"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// terminal tells that no migration is under way.
func terminal(status qmp.MigrationStatus) bool { return untouched(status) || status.Ended() }

// untouched tells that this QEMU has seen no migration.
func untouched(status qmp.MigrationStatus) bool { return status == "" || status == qmp.MigrationNone }

// inPostcopy tells that a migration is past the switch to post-copy: only the destination may run the guest.
func inPostcopy(status qmp.MigrationStatus) bool {
	switch status {
	case qmp.MigrationPostcopyActive, qmp.MigrationPostcopyPaused, qmp.MigrationPostcopyRecoverSetup, qmp.MigrationPostcopyRecover:
		return true
	}
	return false
}

// brokenPostcopy tells that a post-copy waits for its link or is just getting it back.
func brokenPostcopy(status qmp.MigrationStatus) bool {
	return inPostcopy(status) && status != qmp.MigrationPostcopyActive
}

// stateOf translates QEMU's run state and the status of its migration. The table of doc.go is this function.
func stateOf(run qmp.RunState, status qmp.MigrationStatus) migrate.GuestState {
	s := migrate.GuestState{Run: runOf(run, status), Reason: string(run), Job: !terminal(status)}
	if !untouched(status) {
		s.Reason += ", migration " + string(status)
	}
	return s
}

func runOf(run qmp.RunState, status qmp.MigrationStatus) migrate.RunState {
	switch run {
	case qmp.StateRunning:
		switch {
		case brokenPostcopy(status):
			return migrate.RunPostcopyPaused
		case inPostcopy(status):
			return migrate.RunPostcopy
		}
		return migrate.RunRunning
	case qmp.StateInMigrate:
		return migrate.RunIncoming
	case qmp.StateFinishMigrate, qmp.StatePostMigrate:
		return sourceOf(run, status)
	case qmp.StateShutdown:
		return migrate.RunStopped
	case qmp.StateInternalError, qmp.StateGuestPanicked:
		return migrate.RunCrashed
	}
	return migrate.RunPaused
}

// sourceOf is the state of a source that has stopped its guest for the switch.
func sourceOf(run qmp.RunState, status qmp.MigrationStatus) migrate.RunState {
	switch {
	case brokenPostcopy(status):
		return migrate.RunPostcopyPaused
	case inPostcopy(status):
		return migrate.RunPostcopy
	case run == qmp.StatePostMigrate, status == qmp.MigrationCompleted:
		return migrate.RunMigrated
	}
	return migrate.RunPaused
}

// State tells whether the guest runs.
func (h *Host) State(ctx context.Context, name string) (migrate.GuestState, error) {
	s, err := h.state(ctx, name)
	return s, migrate.Fail("ask for the guest's state", "", err, "")
}

func (h *Host) state(ctx context.Context, name string) (migrate.GuestState, error) {
	if err := h.find(name, ""); err != nil {
		return migrate.GuestState{}, err
	}
	run, m, err := h.look(ctx)
	if err != nil {
		return migrate.GuestState{}, err
	}
	return stateOf(run, m.Status), nil
}
