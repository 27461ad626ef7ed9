package qemuhost

import (
	"context"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// The statuses of query-migrate that this driver acts upon.
const (
	statusNone         = ""
	statusActive       = "active"
	statusSetup        = "setup"
	statusPreSwitch    = "pre-switchover"
	statusDevice       = "device"
	statusCancelling   = "cancelling"
	statusCancelled    = "cancelled"
	statusFailed       = "failed"
	statusCompleted    = "completed"
	statusPostcopy     = "postcopy-active"
	statusPaused       = "postcopy-paused"
	statusRecoverSetup = "postcopy-recover-setup"
	statusRecover      = "postcopy-recover"
)

// terminal tells that no migration is under way.
func terminal(status string) bool {
	switch status {
	case statusNone, "none", statusCancelled, statusFailed, statusCompleted:
		return true
	}
	return false
}

// inPostcopy tells that a migration is past the switch to post-copy: only the destination may run the guest.
func inPostcopy(status string) bool {
	switch status {
	case statusPostcopy, statusPaused, statusRecoverSetup, statusRecover:
		return true
	}
	return false
}

// brokenPostcopy tells that a post-copy waits for its link or is just getting it back.
func brokenPostcopy(status string) bool { return inPostcopy(status) && status != statusPostcopy }

// stateOf translates QEMU's run state and the status of its migration. The table of doc.go is this function.
func stateOf(run qmp.RunState, status string) migrate.GuestState {
	s := migrate.GuestState{Run: runOf(run, status), Reason: string(run), Job: !terminal(status)}
	if status != statusNone && status != "none" {
		s.Reason += ", migration " + status
	}
	return s
}

func runOf(run qmp.RunState, status string) migrate.RunState {
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
	case qmp.StatePostMigrate:
		return migrate.RunMigrated
	case qmp.StateFinishMigrate:
		if inPostcopy(status) || status == statusCompleted {
			return migrate.RunMigrated
		}
		return migrate.RunPaused
	case qmp.StateShutdown:
		return migrate.RunStopped
	case qmp.StateInternalError, qmp.StateGuestPanicked:
		return migrate.RunCrashed
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
	m, err := h.migration(ctx)
	if err != nil {
		return migrate.GuestState{}, err
	}
	run, err := h.runState(ctx)
	if err != nil {
		return migrate.GuestState{}, err
	}
	return stateOf(run, m.Status), nil
}
