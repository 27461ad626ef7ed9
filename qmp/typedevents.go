package qmp

// Names of the events that this project acts on.
const (
	EventStop               = "STOP"
	EventResume             = "RESUME"
	EventMigration          = "MIGRATION"
	EventMigrationPass      = "MIGRATION_PASS"
	EventShutdown           = "SHUTDOWN"
	EventReset              = "RESET"
	EventGuestPanicked      = "GUEST_PANICKED"
	EventBlockJobReady      = "BLOCK_JOB_READY"
	EventBlockJobCompleted  = "BLOCK_JOB_COMPLETED"
	EventBlockJobCancelled  = "BLOCK_JOB_CANCELLED"
	EventBlockJobError      = "BLOCK_JOB_ERROR"
	EventBlockJobPending    = "BLOCK_JOB_PENDING"
	EventJobStatusChange    = "JOB_STATUS_CHANGE"
	EventBlockIOError       = "BLOCK_IO_ERROR"
	EventBlockExportDeleted = "BLOCK_EXPORT_DELETED"
	EventUnplugPrimary      = "UNPLUG_PRIMARY"
	EventDeviceDeleted      = "DEVICE_DELETED"
	EventBalloonChange      = "BALLOON_CHANGE"
)

// StopEvent says that the guest's CPUs have stopped.
type StopEvent struct{}

// ResumeEvent says that the guest's CPUs run.
type ResumeEvent struct{}

// MigrationEvent says that the migration entered a state. It needs the capability
// events. After completed, a source's run state is finish-migrate for a moment
// more before it is postmigrate.
type MigrationEvent struct {
	Status MigrationStatus `json:"status"` // the state entered
}

// MigrationPassEvent says that a round of memory begins, counted from 1. It needs
// the capability events.
type MigrationPassEvent struct {
	Pass int64 `json:"pass"` // number of the round
}

// ShutdownEvent says that the guest, or QEMU, shuts down.
type ShutdownEvent struct {
	// Guest tells whether the guest asked for it.
	Guest bool `json:"guest"`
	// Reason is such as guest-shutdown or host-qmp-quit.
	Reason string `json:"reason"`
}

// ResetEvent says that the guest was reset.
type ResetEvent struct {
	// Guest tells whether the guest asked for it.
	Guest bool `json:"guest"`
	// Reason is such as guest-reset or host-qmp-system-reset.
	Reason string `json:"reason"`
}

// GuestPanickedEvent says that the guest's kernel gave up.
type GuestPanickedEvent struct {
	// Action is what QEMU does: pause, poweroff or run.
	Action string `json:"action"`
}

// BlockJobEvent says that a block job became ready, completed or was cancelled;
// Event.Name tells which. Offset and Len are as in BlockJob.
type BlockJobEvent struct {
	Type   string `json:"type"`   // mirror, backup and so on
	Device string `json:"device"` // the job's id
	Len    int64  `json:"len"`    // work
	Offset int64  `json:"offset"` // work done
	Speed  int64  `json:"speed"`  // bytes per second, 0 for no limit
	// Error is set when the job completed with a failure.
	Error *string `json:"error"`
}

// BlockJobErrorEvent says that a block job met an I/O error.
type BlockJobErrorEvent struct {
	Device string `json:"device"` // the job's id
	// Operation is read or write.
	Operation string `json:"operation"`
	// Action is ignore, report or stop.
	Action string `json:"action"`
}

// BlockJobPendingEvent says that a job waits to be finalized.
type BlockJobPendingEvent struct {
	Type string `json:"type"` // mirror, backup and so on
	ID   string `json:"id"`   // the job
}

// JobStatusChangeEvent says that a job entered a state.
type JobStatusChangeEvent struct {
	ID     string    `json:"id"`     // the job
	Status JobStatus `json:"status"` // the state entered
}

// BlockIOErrorEvent says that the guest's disk met an error.
type BlockIOErrorEvent struct {
	// QOMPath is the guest's device; QEMU 9.2.
	QOMPath  *string `json:"qom-path"`
	Device   string  `json:"device"`    // the drive's name, may be empty
	NodeName *string `json:"node-name"` // where it happened
	// Operation is read or write.
	Operation string `json:"operation"`
	// Action is ignore, report, or stop: then the guest is paused.
	Action string `json:"action"`
	// NoSpace is set when the disk's host is full.
	NoSpace *bool  `json:"nospace"`
	Reason  string `json:"reason"` // the system's text
}

// BlockExportDeletedEvent says that an export is gone.
type BlockExportDeletedEvent struct {
	ID string `json:"id"` // the export
}

// UnplugPrimaryEvent says that the assigned card of a failover pair is being
// unplugged for a migration.
type UnplugPrimaryEvent struct {
	DeviceID string `json:"device-id"` // the card
}

// DeviceDeletedEvent says that a device is gone.
type DeviceDeletedEvent struct {
	Device *string `json:"device"` // its id, absent if it had none
	Path   string  `json:"path"`   // its object
}

// BalloonChangeEvent says that the guest's memory changed to Actual bytes.
type BalloonChangeEvent struct {
	Actual int64 `json:"actual"` // bytes
}

// eventTypes gives a new value for the data of each typed event.
func eventTypes(name string) any {
	switch name {
	case EventStop:
		return new(StopEvent)
	case EventResume:
		return new(ResumeEvent)
	case EventMigration:
		return new(MigrationEvent)
	case EventMigrationPass:
		return new(MigrationPassEvent)
	case EventShutdown:
		return new(ShutdownEvent)
	case EventReset:
		return new(ResetEvent)
	case EventGuestPanicked:
		return new(GuestPanickedEvent)
	case EventBlockJobReady, EventBlockJobCompleted, EventBlockJobCancelled:
		return new(BlockJobEvent)
	case EventBlockJobError:
		return new(BlockJobErrorEvent)
	case EventBlockJobPending:
		return new(BlockJobPendingEvent)
	case EventJobStatusChange:
		return new(JobStatusChangeEvent)
	case EventBlockIOError:
		return new(BlockIOErrorEvent)
	case EventBlockExportDeleted:
		return new(BlockExportDeletedEvent)
	case EventUnplugPrimary:
		return new(UnplugPrimaryEvent)
	case EventDeviceDeleted:
		return new(DeviceDeletedEvent)
	case EventBalloonChange:
		return new(BalloonChangeEvent)
	}
	return nil
}

// Typed decodes the event's data: a pointer to one of this package's event types,
// such as *MigrationEvent, or nil for an event that has none here, whose Data is
// to be read as it is. A typed event whose data lacks what it must have is an
// error.
func (e Event) Typed() (any, error) {
	v := eventTypes(e.Name)
	if v == nil {
		return nil, nil
	}
	data := e.Data
	if len(data) == 0 {
		data = []byte("{}")
	}
	if err := decodeRequired("event "+e.Name, data, v); err != nil {
		return nil, err
	}
	return v, nil
}

// MigrationStatus gives the state that a MIGRATION event reports; ok is false for
// any other event.
func (e Event) MigrationStatus() (s MigrationStatus, ok bool) {
	if e.Name != EventMigration {
		return "", false
	}
	v, err := e.Typed()
	m, isMigration := v.(*MigrationEvent)
	if err != nil || !isMigration {
		return "", false
	}
	return m.Status, true
}
