package qmp

import "context"

// JobStatus says how far a job is. QEMU may know states that have no constant
// here.
type JobStatus string

// The job states of QEMU 10.
const (
	JobUndefined JobStatus = "undefined"
	JobCreated   JobStatus = "created"
	JobRunning   JobStatus = "running"
	JobPaused    JobStatus = "paused"
	JobReady     JobStatus = "ready"
	JobStandby   JobStatus = "standby"
	JobWaiting   JobStatus = "waiting"
	JobPending   JobStatus = "pending"
	JobAborting  JobStatus = "aborting"
	JobConcluded JobStatus = "concluded"
	JobNull      JobStatus = "null"
)

// How much a mirror copies.
const (
	SyncFull        = "full"
	SyncTop         = "top"
	SyncNone        = "none"
	SyncIncremental = "incremental"
	SyncBitmap      = "bitmap"
)

// How a mirror follows the guest's writes.
const (
	// CopyBackground copies what became dirty later on.
	CopyBackground = "background"
	// CopyWriteBlocking completes a write when the target has it too.
	CopyWriteBlocking = "write-blocking"
)

// MirrorArgs are the arguments of BlockdevMirror.
type MirrorArgs struct {
	// JobID names the job; empty means as the device.
	JobID string `json:"job-id,omitempty"`
	// Device is the drive or node to copy from.
	Device string `json:"device"`
	// Target is the node to copy to.
	Target string `json:"target"`
	// Sync is one of the Sync constants.
	Sync string `json:"sync"`
	// Speed is bytes per second, 0 for no limit.
	Speed *int64 `json:"speed,omitempty"`
	// Granularity is bytes a dirty bit; a power of 2 from 512 to 64 MiB.
	Granularity *uint32 `json:"granularity,omitempty"`
	// BufSize is bytes in flight.
	BufSize *int64 `json:"buf-size,omitempty"`
	// OnSourceError and OnTargetError are report, ignore, enospc or stop.
	OnSourceError string `json:"on-source-error,omitempty"`
	OnTargetError string `json:"on-target-error,omitempty"`
	// FilterNodeName names the node that the job puts into the graph.
	FilterNodeName string `json:"filter-node-name,omitempty"`
	// CopyMode is one of the Copy constants.
	CopyMode string `json:"copy-mode,omitempty"`
	// AutoFinalize and AutoDismiss are true where absent; with AutoDismiss false
	// the job stays, concluded, until JobDismiss.
	AutoFinalize *bool `json:"auto-finalize,omitempty"`
	AutoDismiss  *bool `json:"auto-dismiss,omitempty"`
}

// BlockdevMirror starts to copy a drive to a node. QEMU reports BLOCK_JOB_READY
// when the two are equal but for writes under way.
func BlockdevMirror(ctx context.Context, x Executor, a MirrorArgs) error {
	return run(ctx, x, "blockdev-mirror", a)
}

// BlockJobCancel ends a job. A ready mirror without force ends with a consistent
// copy and reports BLOCK_JOB_COMPLETED: that is how a migrated disk is released.
// With force it ends at once, without the last writes, and reports
// BLOCK_JOB_CANCELLED.
func BlockJobCancel(ctx context.Context, x Executor, device string, force bool) error {
	return run(ctx, x, "block-job-cancel", struct {
		Device string `json:"device"`
		Force  bool   `json:"force,omitempty"`
	}{device, force})
}

// BlockJobSetSpeed bounds a job to bytes per second, 0 for no limit.
func BlockJobSetSpeed(ctx context.Context, x Executor, device string, bytesPerSecond int64) error {
	return run(ctx, x, "block-job-set-speed", struct {
		Device string `json:"device"`
		Speed  int64  `json:"speed"`
	}{device, bytesPerSecond})
}

// BlockJobChange gives a mirror another copy mode; QEMU 10 only allows the change
// from background to write-blocking. It takes effect some time later: see
// BlockJob.ActivelySynced. QEMU 8.2.
func BlockJobChange(ctx context.Context, x Executor, id, copyMode string) error {
	return run(ctx, x, "block-job-change", map[string]string{"id": id, "type": "mirror", "copy-mode": copyMode})
}

// JobComplete ends a ready job; a mirror's drive goes on with its target.
func JobComplete(ctx context.Context, x Executor, id string) error {
	return run(ctx, x, "job-complete", map[string]string{"id": id})
}

// JobResume lets a job go on that was paused, by a user or for an error.
func JobResume(ctx context.Context, x Executor, id string) error {
	return run(ctx, x, "job-resume", map[string]string{"id": id})
}

// JobDismiss forgets a concluded job.
func JobDismiss(ctx context.Context, x Executor, id string) error {
	return run(ctx, x, "job-dismiss", map[string]string{"id": id})
}

// BlockJob is a job on a drive. Offset and Len are in the job's own unit, mostly
// bytes.
type BlockJob struct {
	Type string `json:"type"` // mirror, backup and so on
	// Device is the job's id.
	Device string `json:"device"`
	// Len is the work as known now; it can grow.
	Len int64 `json:"len"`
	// Offset is the work done.
	Offset      int64     `json:"offset"`
	Busy        bool      `json:"busy"`          // working right now
	Paused      bool      `json:"paused"`        // by the user or for an error
	Speed       int64     `json:"speed"`         // bytes per second, 0 for no limit
	IOStatus    string    `json:"io-status"`     // ok, failed or nospace
	Ready       bool      `json:"ready"`         // may be released
	Status      JobStatus `json:"status"`        // how far it is
	AutoFinal   bool      `json:"auto-finalize"` // no BLOCK_JOB_PENDING
	AutoDismiss bool      `json:"auto-dismiss"`  // forgotten when concluded
	Error       *string   `json:"error"`         // set when it failed
	// ActivelySynced tells, for a mirror, whether write-blocking is in effect;
	// QEMU 8.2.
	ActivelySynced *bool `json:"actively-synced"`
}

// QueryBlockJobs lists the jobs on drives.
func QueryBlockJobs(ctx context.Context, x Executor) ([]BlockJob, error) {
	return query[[]BlockJob](ctx, x, "query-block-jobs", nil)
}

// Job is a job of any kind. Progress is in the job's own unit.
type Job struct {
	ID              string    `json:"id"`               // name
	Type            string    `json:"type"`             // mirror, backup and so on
	Status          JobStatus `json:"status"`           // how far it is
	CurrentProgress int64     `json:"current-progress"` // work done
	TotalProgress   int64     `json:"total-progress"`   // work as known now; it can grow
	// Error is set on a job that failed.
	Error *string `json:"error"`
}

// QueryJobs lists all jobs, concluded ones included until they are dismissed.
func QueryJobs(ctx context.Context, x Executor) ([]Job, error) {
	return query[[]Job](ctx, x, "query-jobs", nil)
}
