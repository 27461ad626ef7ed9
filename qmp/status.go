package qmp

import "context"

// RunState says what a guest is doing. QEMU may know states that have no constant
// here.
type RunState string

// The run states of QEMU 10.
const (
	StateDebug         RunState = "debug"
	StateInMigrate     RunState = "inmigrate"
	StateInternalError RunState = "internal-error"
	StateIOError       RunState = "io-error"
	StatePaused        RunState = "paused"
	StatePostMigrate   RunState = "postmigrate"
	StatePreLaunch     RunState = "prelaunch"
	StateFinishMigrate RunState = "finish-migrate"
	StateRestoreVM     RunState = "restore-vm"
	StateRunning       RunState = "running"
	StateSaveVM        RunState = "save-vm"
	StateShutdown      RunState = "shutdown"
	StateSuspended     RunState = "suspended"
	StateWatchdog      RunState = "watchdog"
	StateGuestPanicked RunState = "guest-panicked"
	StateColo          RunState = "colo"
)

// StatusInfo is the answer to query-status.
type StatusInfo struct {
	// Status is the run state.
	Status RunState `json:"status"`
	// Running tells whether the guest's CPUs run. In post-copy it stays true even
	// while every CPU waits for a page.
	Running bool `json:"running"`
}

// QueryStatus asks whether and how the guest runs.
func QueryStatus(ctx context.Context, x Executor) (StatusInfo, error) {
	return query[StatusInfo](ctx, x, "query-status", nil)
}

// Stop pauses the guest. QEMU reports STOP when its CPUs have stopped. A guest
// that is paused already stays so, without an event.
func Stop(ctx context.Context, x Executor) error { return run(ctx, x, "stop", nil) }

// Cont lets the guest run; on an incoming QEMU, as soon as the migration has
// arrived. QEMU reports RESUME.
func Cont(ctx context.Context, x Executor) error { return run(ctx, x, "cont", nil) }

// Quit ends QEMU, and with it the guest. The connection ends soon after the reply.
func Quit(ctx context.Context, x Executor) error { return run(ctx, x, "quit", nil) }

// SystemReset resets the guest. QEMU reports RESET.
func SystemReset(ctx context.Context, x Executor) error { return run(ctx, x, "system_reset", nil) }
