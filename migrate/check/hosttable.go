package check

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"strings"

	"github.com/vmmigrate/vmmigrate/internal/sys"
)

// HostSchema names the form of the JSON of a HostTable. Readers refuse another.
const HostSchema = "vmmigrate.host/v1"

// HostTable tells what the kernel of this very host offers the engine nbd, for this process: its user, its capabilities
// and its filter of system calls. An agent that runs as another user may find otherwise.
type HostTable struct {
	Schema string `json:"schema"`
	// Arch is the architecture, in Go's words.
	Arch string `json:"arch"`
	// Rows are in the order of HostProbes.
	Rows []HostRow `json:"features"`
}

// HostRow is one feature.
type HostRow struct {
	// ID is stable and kebab-case, for scripts.
	ID string `json:"id"`
	// Presence is present, absent or unknown, which means that it could not be told.
	Presence string `json:"presence"`
	// For says what needs it.
	For string `json:"for"`
	// Reason is one line on why it is not present, or on what restricts it; Fix is one line, only if it is absent.
	Reason string `json:"reason,omitempty"`
	Fix    string `json:"fix,omitempty"`
}

// HostProbe is how one row is found.
type HostProbe struct {
	ID, For string
	Ask     func() sys.Probe
}

// HostProbes lists what is asked. The tests of the lower layers skip by the same answers.
func HostProbes() []HostProbe {
	return []HostProbe{
		{"userfaultfd", "postcopy and hybrid: faults of the kernel and of KVM wait for their page", sys.ProbeUserfault},
		{"missing-shmem", "postcopy and hybrid of RAM on tmpfs or memfd", sys.ProbeMissingShmem},
		{"missing-hugetlbfs", "postcopy and hybrid of RAM on huge pages", sys.ProbeMissingHugetlbfs},
		{"minor-shmem", "handing over faults of pages that have come already", sys.ProbeMinorShmem},
		{"poison", "telling a guest that a page is lost", sys.ProbePoison},
		{"wp-async", "tracker uffd-wp", sys.ProbeWPAsync},
		{"pagemap-scan", "tracker uffd-wp", sys.ProbePagemapScan},
		{"soft-dirty", "tracker soft-dirty, where uffd-wp is not to be had", sys.ProbeSoftDirty},
		{"inject", "reaching into a running QEMU: engine nbd as a whole", sys.ProbeInject},
	}
}

// AskHost asks all the probes. Nothing on the host is changed.
func AskHost() HostTable {
	t := HostTable{Schema: HostSchema, Arch: runtime.GOARCH}
	for _, p := range HostProbes() {
		t.Rows = append(t.Rows, p.row(p.Ask()))
	}
	return t
}

func (p HostProbe) row(answer sys.Probe) HostRow {
	return HostRow{ID: p.ID, Presence: presence(answer.Presence), For: p.For, Reason: answer.Reason, Fix: answer.Remedy}
}

// presence spells an answer; what is no answer could not be told.
func presence(p sys.Presence) string {
	switch p {
	case sys.Present:
		return "present"
	case sys.Absent:
		return "absent"
	}
	return "unknown"
}

// The columns of the text form: presence, and the name.
const (
	presenceCol = 9
	featureCol  = 19
)

// WriteText writes the table for a person: one block per feature, no line longer than 80 columns unless a single word
// is.
func (t HostTable) WriteText(w io.Writer) error {
	var b strings.Builder
	indent := strings.Repeat(" ", presenceCol)
	hang := strings.Repeat(" ", presenceCol+featureCol)
	for _, r := range t.Rows {
		fill(&b, fmt.Sprintf("%-*s%-*s", presenceCol, r.Presence, featureCol, r.ID), hang, "for "+r.For)
		if r.Reason != "" {
			fill(&b, hang, hang, r.Reason)
		}
		if r.Fix != "" {
			fill(&b, indent+"fix: ", indent+"     ", r.Fix)
		}
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write host table: %w", err)
	}
	return nil
}

// WriteJSON writes the form that HostSchema names.
func (t HostTable) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if err := enc.Encode(t); err != nil {
		return fmt.Errorf("write host table: %w", err)
	}
	return nil
}
