package migrate

// ReportSchema names the form of the report. Readers refuse another.
const ReportSchema = "vmmigrate.report/v1"

// Report is what is left of a migration, as written by -o json and --report. A field that is not known is absent; no
// figure is made up. Times are milliseconds, sizes bytes.
type Report struct {
	Schema    string     `json:"schema"`
	Migration string     `json:"migration"`
	Domain    string     `json:"domain"`
	Source    string     `json:"source,omitempty"`
	Dest      string     `json:"destination,omitempty"`
	Started   string     `json:"started,omitempty"` // RFC 3339
	Engine    EngineName `json:"engine"`
	// EngineReason says why an engine or a strategy was taken where the user left it open.
	EngineReason string   `json:"engine_reason,omitempty"`
	Strategy     Strategy `json:"strategy"`
	Prepage      string   `json:"prepage,omitempty"`
	Outcome      Outcome  `json:"outcome"`
	Owner        Owner    `json:"owner"`

	Error *ReportError `json:"error,omitempty"`

	TotalMS    *float64 `json:"total_ms,omitempty"`
	DowntimeMS *float64 `json:"downtime_ms,omitempty"`
	// DowntimeClock says whose clock measured it: "hosts" (the stamps of both hosts' events, their clocks being found to
	// agree) or "arrival" (when the events reached the coordinator).
	DowntimeClock string `json:"downtime_clock,omitempty"`
	// DowntimeParts splits the pause; the parts add up to DowntimeMS. last_copy: STOP until the last of RAM and state is
	// ready to be handed over; commit: the journal's write; resume: from there to RESUME on the destination; return: STOP
	// until the source ran again, where the migration was taken back.
	DowntimeParts map[string]float64 `json:"downtime_parts_ms,omitempty"`
	// OutsideDowntimeMS is the longest silence that a client on the guest's network saw, where one watched.
	OutsideDowntimeMS *float64 `json:"outside_downtime_ms,omitempty"`

	RAM       *ReportRAM                    `json:"ram,omitempty"`
	Disks     []ReportDisk                  `json:"disks,omitempty"`
	Predicted map[Strategy]ReportPrediction `json:"predicted,omitempty"`
	Phases    []ReportPhase                 `json:"phases,omitempty"`
	Notes     []string                      `json:"notes,omitempty"`
}

// ReportError tells what went wrong, where, and what to do.
type ReportError struct {
	Phase string `json:"phase"`
	Cause string `json:"cause"`
	Fix   string `json:"fix"`
}

// ReportRAM is what was sent of the guest's RAM.
type ReportRAM struct {
	TotalBytes    *int64        `json:"total_bytes,omitempty"`
	NonzeroBytes  *int64        `json:"nonzero_bytes,omitempty"`
	SentBytes     *int64        `json:"sent_bytes,omitempty"`
	Rounds        []ReportRound `json:"rounds,omitempty"`
	Faults        *int64        `json:"faults,omitempty"`
	FaultUS       *ReportFault  `json:"fault_us,omitempty"`
	PrepagedPages *int64        `json:"prepaged_pages,omitempty"`
	// ReusedPages came from an older copy that the destination had of the RAM.
	ReusedPages    *int64 `json:"reused_pages,omitempty"`
	ThrottlePct    *int64 `json:"throttle_percent,omitempty"`
	DirtyBytesPerS *int64 `json:"dirty_bytes_per_s,omitempty"`
}

// ReportRound is one pre-copy pass.
type ReportRound struct {
	Pages int64   `json:"pages"`
	Bytes int64   `json:"bytes"`
	MS    float64 `json:"ms"`
}

// ReportFault is the latency of demand faults in microseconds.
type ReportFault struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// ReportDisk is one disk that was moved.
type ReportDisk struct {
	Name string `json:"name"`
	// Bytes is the disk's size as the guest sees it.
	Bytes int64 `json:"bytes"`
	// SentBytes is what was copied, as the hypervisor counts it: blocks of zeros are among it, though next to nothing goes over
	// the link for them.
	SentBytes *int64 `json:"sent_bytes,omitempty"`
	// MS is the time from the first that was heard of the copy until it had caught up with the guest.
	MS *float64 `json:"ms,omitempty"`
	// Way is how the disk was moved (mirror, agents, after), Writes how the guest's writes got to the destination in the end:
	// background or write-blocking.
	Way    string `json:"way,omitempty"`
	Writes string `json:"writes,omitempty"`
}

// ReportPrediction is what was expected: before the start where samples or past runs of the guest allowed that, else from the
// first figures of the copy.
type ReportPrediction struct {
	ReportPoint
	// Low and High are between what it was expected to be, each figure by itself. Absent where no range was worked out.
	Low  *ReportPoint `json:"low,omitempty"`
	High *ReportPoint `json:"high,omitempty"`
	// Model is what the model alone said, before it was corrected by what past runs of the guest took. Absent where it was not
	// made before the start.
	Model *ReportPoint `json:"model,omitempty"`
}

// ReportPoint is what a migration takes.
type ReportPoint struct {
	TotalMS    float64  `json:"total_ms"`
	DowntimeMS *float64 `json:"downtime_ms,omitempty"`
	SentBytes  int64    `json:"sent_bytes"`
}

// ReportPhase is when a phase began, counted from the start, and how long it took.
type ReportPhase struct {
	Name    string  `json:"name"`
	StartMS float64 `json:"start_ms"`
	MS      float64 `json:"ms"`
}
