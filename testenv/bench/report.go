package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// ReportSchema is the value of Report.Schema.
const ReportSchema = "vmmigrate.bench/v1"

// maxReport bounds a report's file in bytes.
const maxReport = 256 << 20

// Report is what a benchmark found. A figure that is not known is absent.
type Report struct {
	// Schema is ReportSchema.
	Schema  string    `json:"schema"`
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended"`
	Machine Machine   `json:"machine"`
	// Scenarios are in the order in which they ran.
	Scenarios []Result `json:"scenarios"`
	// Micro are results of "go test -bench" that were taken in.
	Micro []Micro `json:"micro,omitempty"`
	// Bars are what the project holds itself to, worked out from the above.
	Bars []Bar `json:"bars"`
}

// Machine is where it ran.
type Machine struct {
	Arch   string `json:"arch"`
	CPUs   int    `json:"cpus"`
	Kernel string `json:"kernel,omitempty"`
	QEMU   string `json:"qemu,omitempty"`
	// Program is the version of the vmmigrate that was measured.
	Program string `json:"program,omitempty"`
}

// Result is what one scenario found.
type Result struct {
	Scenario Scenario `json:"scenario"`
	// Accel is what ran the guest.
	Accel string `json:"accel,omitempty"`
	Cells []Cell `json:"cells"`
	// Error says why the scenario did not come to its end.
	Error string `json:"error,omitempty"`
}

// Cell is one workload on one link.
type Cell struct {
	Workload string `json:"workload"`
	Link     string `json:"link"`
	// RTTUS is a round trip between the two hosts in microseconds, as a pair of idle
	// programs sees it: the median of many.
	RTTUS *float64    `json:"rtt_us,omitempty"`
	Rows  []RowResult `json:"rows"`
}

// RowResult is a row's runs in one cell.
type RowResult struct {
	Row Row `json:"row"`
	// Skipped says why it did not run.
	Skipped string `json:"skipped,omitempty"`
	Runs    []Run  `json:"runs"`
	// Summary are the medians and spreads over the runs that went well.
	Summary Summary `json:"summary"`
}

// Run is one migration. Times are milliseconds, sizes bytes.
type Run struct {
	// Order counts all runs of the scenario, from 1; Repetition those of the row.
	Order      int       `json:"order"`
	Repetition int       `json:"repetition"`
	From       string    `json:"from"`
	To         string    `json:"to"`
	Started    time.Time `json:"started"`
	// OK is true if the migration completed and the guest was whole after it.
	OK bool `json:"ok"`
	// Failure says what went wrong.
	Failure  string `json:"failure,omitempty"`
	ExitCode int    `json:"exit_code"`
	// WallMS is how long the program took, its start and checks included.
	WallMS float64 `json:"wall_ms"`
	Figures
	// Speed is the guest's, as it told from time to time.
	Speed Speed `json:"speed"`
	// Report is the program's own report, whole.
	Report json.RawMessage `json:"report,omitempty"`
}

// Figures are those of one run that have a median over several.
type Figures struct {
	// TotalMS and DowntimeMS are the report's, OutsideMS the longest silence that a
	// client saw meanwhile.
	TotalMS    *float64 `json:"total_ms,omitempty"`
	DowntimeMS *float64 `json:"downtime_ms,omitempty"`
	OutsideMS  *float64 `json:"outside_ms,omitempty"`
	// LinkBytes are what the source sent on its link, headers included; SentBytes is
	// what the report says of RAM, MustBytes what had to go: the RAM that is not zero,
	// and the rounds after the first.
	LinkBytes *float64 `json:"link_bytes,omitempty"`
	// On a way back FirstBytes is LinkBytes of the way there, and ReturnPart the one by the other.
	FirstBytes *float64 `json:"first_bytes,omitempty"`
	ReturnPart *float64 `json:"return_part,omitempty"`
	SentBytes  *float64 `json:"sent_bytes,omitempty"`
	MustBytes  *float64 `json:"must_bytes,omitempty"`
	Nonzero    *float64 `json:"nonzero_bytes,omitempty"`
	// Faults are the demand faults, FaultP50US and FaultP99US how long they took;
	// Prepaged are pages that came before they were asked for.
	Faults     *float64 `json:"faults,omitempty"`
	FaultP50US *float64 `json:"fault_p50_us,omitempty"`
	FaultP99US *float64 `json:"fault_p99_us,omitempty"`
	Prepaged   *float64 `json:"prepaged_pages,omitempty"`
	// LandedMS is from the command until the guest ran at the destination: the report's,
	// and what the program took before and after what that is about.
	LandedMS *float64 `json:"landed_ms,omitempty"`
	// DiskBytes is what the images take at the source, holes that an earlier row filled left
	// out, DisksMS how long copying them took
	// and DiskSpeed the one by the other in MiB a second. ReadP50US and ReadP99US are how
	// long the guest's own reads of one block took, by its clock: until the end, and where
	// disks come after the guest from when it runs there on.
	DiskBytes *float64 `json:"disk_bytes,omitempty"`
	DisksMS   *float64 `json:"disks_ms,omitempty"`
	DiskSpeed *float64 `json:"disk_mib_per_s,omitempty"`
	ReadP50US *float64 `json:"read_p50_us,omitempty"`
	ReadP99US *float64 `json:"read_p99_us,omitempty"`
	// During is the guest's speed during the migration and After that in the time
	// after it, as parts of that before.
	During *float64 `json:"speed_during,omitempty"`
	After  *float64 `json:"speed_after,omitempty"`
}

// Speed is how many pages a second the guest wrote.
type Speed struct {
	Before *float64 `json:"before,omitempty"`
	During *float64 `json:"during,omitempty"`
	After  *float64 `json:"after,omitempty"`
	// Course is the speed over time, at most maxCourse points.
	Course []Point `json:"course,omitempty"`
}

// Point is the guest's speed at a time since the migration began.
type Point struct {
	MS    float64 `json:"ms"`
	Speed float64 `json:"pages_per_s"`
}

// Summary are the distributions of a row's runs.
type Summary struct {
	// Runs is how many there were, OK how many of them went well.
	Runs int `json:"runs"`
	OK   int `json:"ok"`
	// Figures has a distribution for each figure that any good run has, by the name
	// of its JSON field.
	Figures map[string]Spread `json:"figures"`
}

// Get is the distribution of a figure; false without any value.
func (s Summary) Get(name string) (Spread, bool) {
	d, ok := s.Figures[name]
	return d, ok
}

// ReadReport reads a report, such as one that was kept to be drawn again.
func ReadReport(r io.Reader) (Report, error) {
	var report Report
	d := json.NewDecoder(io.LimitReader(r, maxReport))
	if err := d.Decode(&report); err != nil {
		return Report{}, fmt.Errorf("read a benchmark's report: %w", err)
	}
	if report.Schema != ReportSchema {
		return Report{}, fmt.Errorf("read a benchmark's report: schema %q, want %q", report.Schema, ReportSchema)
	}
	report.finish()
	return report, nil
}

// finish works out the summaries and the bars.
func (r *Report) finish() {
	for i := range r.Scenarios {
		for j := range r.Scenarios[i].Cells {
			for k := range r.Scenarios[i].Cells[j].Rows {
				row := &r.Scenarios[i].Cells[j].Rows[k]
				row.Summary = summarize(row.Runs)
			}
		}
	}
	r.Bars = evaluate(*r)
}
