package bench

import (
	"encoding/json"
	"fmt"
)

// told is what the benchmark reads of a migration's report (vmmigrate.report/v1).
// The report has more, and may get more still: it is kept whole beside this.
type told struct {
	Schema     string   `json:"schema"`
	Strategy   string   `json:"strategy"`
	Outcome    string   `json:"outcome"`
	TotalMS    *float64 `json:"total_ms"`
	DowntimeMS *float64 `json:"downtime_ms"`
	Error      *struct {
		Phase string `json:"phase"`
		Cause string `json:"cause"`
	} `json:"error"`
	Disks []struct {
		MS *float64 `json:"ms"`
	} `json:"disks"`
	Phases []struct {
		Name  string  `json:"name"`
		Start float64 `json:"start_ms"`
	} `json:"phases"`
	RAM *struct {
		Nonzero *float64 `json:"nonzero_bytes"`
		Sent    *float64 `json:"sent_bytes"`
		Rounds  []struct {
			Bytes float64 `json:"bytes"`
		} `json:"rounds"`
		Faults  *float64 `json:"faults"`
		FaultUS *struct {
			P50 float64 `json:"p50"`
			P99 float64 `json:"p99"`
		} `json:"fault_us"`
		Prepaged *float64 `json:"prepaged_pages"`
	} `json:"ram"`
}

// reportSchema is that of the reports that are understood.
const reportSchema = "vmmigrate.report/v1"

// readTold reads a migration's report.
func readTold(b []byte) (told, error) {
	var t told
	if err := json.Unmarshal(b, &t); err != nil {
		return told{}, fmt.Errorf("the migration's report: %w", err)
	}
	if t.Schema != reportSchema {
		return told{}, fmt.Errorf("the migration's report: schema %q, want %q", t.Schema, reportSchema)
	}
	return t, nil
}

// disksMS is how long the slowest disk took, for they are copied side by side; nil if one does not tell.
func (t told) disksMS() (slowest *float64) {
	for _, d := range t.Disks {
		if d.MS == nil {
			return nil
		}
		if slowest == nil || *d.MS > *slowest {
			slowest = d.MS
		}
	}
	return slowest
}

// figures are the report's.
func (t told) figures() Figures {
	f := Figures{TotalMS: t.TotalMS, DowntimeMS: t.DowntimeMS}
	for _, p := range t.Phases {
		if p.Name == "paging" {
			f.LandedMS = &p.Start
		}
	}
	f.DisksMS = t.disksMS()
	if t.RAM == nil {
		return f
	}
	f.Nonzero, f.SentBytes, f.Faults, f.Prepaged = t.RAM.Nonzero, t.RAM.Sent, t.RAM.Faults, t.RAM.Prepaged
	if t.RAM.FaultUS != nil {
		f.FaultP50US, f.FaultP99US = &t.RAM.FaultUS.P50, &t.RAM.FaultUS.P99
	}
	if f.Nonzero != nil {
		must := *f.Nonzero
		for i, r := range t.RAM.Rounds {
			if i > 0 && t.Strategy != "postcopy" {
				must += r.Bytes
			}
		}
		f.MustBytes = &must
	}
	return f
}
