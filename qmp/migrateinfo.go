package qmp

import "context"

// MigrationStatus says how far a migration is. QEMU may know states that have no
// constant here.
type MigrationStatus string

// The migration states of QEMU 10. A source in pre-copy passes setup, active,
// pre-switchover if it was asked to pause there, device and completed.
const (
	MigrationNone                 MigrationStatus = "none"
	MigrationSetup                MigrationStatus = "setup"
	MigrationCancelling           MigrationStatus = "cancelling"
	MigrationCancelled            MigrationStatus = "cancelled"
	MigrationActive               MigrationStatus = "active"
	MigrationPostcopyActive       MigrationStatus = "postcopy-active"
	MigrationPostcopyPaused       MigrationStatus = "postcopy-paused"
	MigrationPostcopyRecoverSetup MigrationStatus = "postcopy-recover-setup"
	MigrationPostcopyRecover      MigrationStatus = "postcopy-recover"
	MigrationCompleted            MigrationStatus = "completed"
	MigrationFailed               MigrationStatus = "failed"
	MigrationColo                 MigrationStatus = "colo"
	MigrationPreSwitchover        MigrationStatus = "pre-switchover"
	MigrationDevice               MigrationStatus = "device"
	MigrationWaitUnplug           MigrationStatus = "wait-unplug"
)

// Ended reports whether no further state follows: completed, failed or cancelled.
// A state that is unknown here has not ended.
func (s MigrationStatus) Ended() bool {
	return s == MigrationCompleted || s == MigrationFailed || s == MigrationCancelled
}

// MigrationInfo is the answer to query-migrate. A nil field was not in the
// answer; which ones are depends on the state, the side and QEMU's version.
type MigrationInfo struct {
	// Status is empty as long as this QEMU has seen no migration.
	Status MigrationStatus `json:"status,omitempty"`
	// ErrorDesc is QEMU's text after a failure.
	ErrorDesc *string `json:"error-desc"`
	// BlockedReasons says why this guest cannot be migrated.
	BlockedReasons []string `json:"blocked-reasons,omitempty"`
	// RAM counts memory; a destination has none.
	RAM *MigrationRAM `json:"ram"`
	// XBZRLE counts the delta cache, where it is on.
	XBZRLE *MigrationXBZRLE `json:"xbzrle-cache"`
	// VFIO counts assigned devices.
	VFIO *MigrationVFIO `json:"vfio"`

	// TotalTime is milliseconds since the beginning, or of the whole.
	TotalTime *int64 `json:"total-time"`
	// SetupTime is milliseconds of preparation.
	SetupTime *int64 `json:"setup-time"`
	// ExpectedDowntime is QEMU's forecast in milliseconds while it is active.
	ExpectedDowntime *int64 `json:"expected-downtime"`
	// Downtime is milliseconds as QEMU counts them when completed. In post-copy it
	// ends before the destination runs: measure STOP to RESUME instead.
	Downtime *int64 `json:"downtime"`

	// CPUThrottlePercentage is how much auto-converge holds the guest back.
	CPUThrottlePercentage *int64 `json:"cpu-throttle-percentage"`
	// DirtyLimitThrottleTimePerRound is in microseconds.
	DirtyLimitThrottleTimePerRound *uint64 `json:"dirty-limit-throttle-time-per-round"`
	// DirtyLimitRingFullTime is in microseconds.
	DirtyLimitRingFullTime *uint64 `json:"dirty-limit-ring-full-time"`
	// PostcopyBlocktime is, at the destination, milliseconds in which all CPUs
	// waited at once.
	PostcopyBlocktime *uint32 `json:"postcopy-blocktime"`
	// PostcopyVCPUBlocktime is, at the destination, milliseconds per CPU.
	PostcopyVCPUBlocktime []uint32 `json:"postcopy-vcpu-blocktime,omitempty"`
	// SocketAddress is where a destination listens.
	SocketAddress []SocketAddress `json:"socket-address,omitempty"`
}

// MigrationRAM counts what a source has done with memory. Sizes are bytes, pages
// are of PageSize.
type MigrationRAM struct {
	// Transferred is all bytes sent so far, including multifd's.
	Transferred int64 `json:"transferred"` // bytes
	// Remaining is bytes that are still to be sent.
	Remaining int64 `json:"remaining"`
	// Total is the size of guest memory.
	Total int64 `json:"total"`
	// Duplicate is zero pages.
	Duplicate int64 `json:"duplicate"`
	// Normal is pages sent as they are.
	Normal int64 `json:"normal"`
	// NormalBytes is Normal in bytes.
	NormalBytes int64 `json:"normal-bytes"`
	// DirtyPagesRate is pages per second.
	DirtyPagesRate int64 `json:"dirty-pages-rate"`
	// Mbps is 10^6 bits per second.
	Mbps float64 `json:"mbps"`
	// DirtySyncCount is the number of rounds.
	DirtySyncCount int64 `json:"dirty-sync-count"`
	// PostcopyRequests is how many pages the destination asked for.
	PostcopyRequests int64 `json:"postcopy-requests"`
	// PageSize is bytes of a page.
	PageSize int64 `json:"page-size"`
	// MultifdBytes is bytes sent over multifd's channels.
	MultifdBytes uint64 `json:"multifd-bytes"`
	// PagesPerSecond is pages sent per second.
	PagesPerSecond uint64 `json:"pages-per-second"`
	// PrecopyBytes is bytes sent before the pause; QEMU 7.0.
	PrecopyBytes *uint64 `json:"precopy-bytes"`
	// DowntimeBytes is bytes sent during the pause; QEMU 7.0.
	DowntimeBytes *uint64 `json:"downtime-bytes"`
	// PostcopyBytes is bytes sent after it; QEMU 7.0.
	PostcopyBytes *uint64 `json:"postcopy-bytes"`
	// DirtySyncMissedZeroCopy is rounds in which zero copy fell back; QEMU 7.1.
	DirtySyncMissedZeroCopy *uint64 `json:"dirty-sync-missed-zero-copy"`
}

// MigrationXBZRLE counts the delta cache. Sizes are bytes.
type MigrationXBZRLE struct {
	CacheSize     uint64   `json:"cache-size"`      // bytes
	Bytes         int64    `json:"bytes"`           // sent
	Pages         int64    `json:"pages"`           // sent as deltas
	CacheMiss     int64    `json:"cache-miss"`      // pages not in the cache
	CacheMissRate float64  `json:"cache-miss-rate"` // of all pages
	EncodingRate  *float64 `json:"encoding-rate"`   // bytes before to bytes after
	Overflow      int64    `json:"overflow"`        // pages whose delta was larger
}

// MigrationVFIO counts what assigned devices sent, in bytes.
type MigrationVFIO struct {
	Transferred int64 `json:"transferred"`
}

// QueryMigrate asks how the latest migration of this QEMU stands.
func QueryMigrate(ctx context.Context, x Executor) (MigrationInfo, error) {
	return query[MigrationInfo](ctx, x, "query-migrate", nil)
}
