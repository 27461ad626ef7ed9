package migrate

import "time"

// Progress is one snapshot of a running migration: what --progress json writes as one line, and what the journal keeps
// for watch. An absent field is not known.
type Progress struct {
	Migration string    `json:"migration"`
	Domain    string    `json:"domain,omitempty"`
	Time      time.Time `json:"time"`
	Phase     Phase     `json:"phase"`
	Owner     Owner     `json:"owner"`
	// Percent of all work, 0 to 100. It never falls and reaches 100 only when the migration completed.
	Percent float64 `json:"percent"`
	// ETAMS is the time left until completion as a range in milliseconds.
	ETAMS *Range `json:"eta_ms,omitempty"`
	// RemainingBytes of RAM and disks that are still to be sent; in pre-copy the guest adds to it.
	RemainingBytes     *int64 `json:"remaining_bytes,omitempty"`
	DirtyBytesPerS     *int64 `json:"dirty_bytes_per_s,omitempty"`
	BandwidthBytesPerS *int64 `json:"bandwidth_bytes_per_s,omitempty"`
	// Round is the pre-copy pass under way, from 1.
	Round *int64 `json:"round,omitempty"`
	// Disks that travel with the guest, as far as more is known of them than their sum.
	Disks []ProgressDisk `json:"disks,omitempty"`
	// Wait is set while the migration waits for its moment.
	Wait *ProgressWait `json:"wait,omitempty"`
	// Outcome is set on the last line.
	Outcome Outcome `json:"outcome,omitempty"`
	// Note is a decision or an oddity for a person, such as a try to recover.
	Note string `json:"note,omitempty"`
}

// Range is an estimate with its bounds, in milliseconds. High is absent where nothing bounds it: a pre-copy that sends
// more slowly than the guest writes never ends by itself.
type Range struct {
	Low  int64  `json:"low"`
	High *int64 `json:"high,omitempty"`
}

// ProgressWait says when a migration that waits will begin. It is told anew when that changes.
type ProgressWait struct {
	// Start is when it begins as things stand.
	Start time.Time `json:"start"`
	// Deadline is when it is to be over at the latest; zero if there is none.
	Deadline time.Time `json:"deadline,omitzero"`
	// Why tells a person what it waits for.
	Why string `json:"why,omitempty"`
}

// ProgressDisk is one disk that travels with the guest. An absent field is not known.
type ProgressDisk struct {
	Name string `json:"name"`
	// TotalBytes is the work as known now, which grows with what the guest writes.
	TotalBytes         *int64 `json:"total_bytes,omitempty"`
	RemainingBytes     *int64 `json:"remaining_bytes,omitempty"`
	SentBytes          *int64 `json:"sent_bytes,omitempty"`
	BandwidthBytesPerS *int64 `json:"bandwidth_bytes_per_s,omitempty"`
	// InStep tells that the copy has caught up with the guest and follows it.
	InStep bool `json:"in_step,omitempty"`
	// Waits says why the copy stands still, and what to do about it.
	Waits string `json:"waits,omitempty"`
}
