package check

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// Schema names the form of the JSON. Readers refuse another.
const Schema = "vmmigrate.check/v1"

// Severity says what a finding means for the migration. The empty one is invalid.
type Severity string

// The severities, gravest first. A blocker forbids the migration; a warning is something that the user may have
// overlooked; unknown is something that could not be ruled out; info is good to know.
const (
	Blocker Severity = "blocker"
	Warning Severity = "warning"
	Unknown Severity = "unknown"
	Info    Severity = "info"
)

// rank orders severities, gravest first.
func (s Severity) rank() int {
	return slices.Index([]Severity{Blocker, Warning, Unknown, Info}, s)
}

// Finding is one thing that a user should know before the migration.
type Finding struct {
	// ID is stable and kebab-case, for scripts; ids.go has them all.
	ID       string   `json:"id"`
	Severity Severity `json:"severity"`
	// Side is where it was found, and where the fix applies.
	Side migrate.Side `json:"side"`
	// Title is one short line, Detail what is behind it; empty if there is no more to say.
	Title  string `json:"title"`
	Detail string `json:"detail,omitempty"`
	// Fix is one line, a command where possible; empty where nothing need be done.
	Fix string `json:"fix,omitempty"`
}

// Result is what a check found, ready to be shown.
type Result struct {
	Domain      string
	Source      string // URI, without secrets
	Destination string
	// Engine moves the RAM, and EngineReason says why that one; empty where nothing can be moved.
	Engine       migrate.EngineName
	EngineReason string
	// Strategy is the one that would be taken, and Reason why; empty if none is possible.
	Strategy migrate.Strategy
	Reason   string
	// Params are what was asked for with nothing left open, for the engine; they are zero if no strategy is possible.
	Params migrate.Params
	// Strategies tells of each strategy whether it is possible.
	Strategies []Choice
	// Work is what there is to move; nil where there is no guest.
	Work *Work
	// Findings are sorted: gravest first, then in the order of the rules.
	Findings []Finding
}

// Blocked tells whether a finding forbids the migration.
func (r Result) Blocked() bool { return r.Count(Blocker) > 0 }

// Count tells how many findings are of that severity.
func (r Result) Count(s Severity) int {
	n := 0
	for _, f := range r.Findings {
		if f.Severity == s {
			n++
		}
	}
	return n
}

// Err is nil unless the migration is blocked; then it is a *migrate.OpError with the gravest finding as its cause, which
// wraps ErrBlocked, and ErrBusy or ErrNoDomain where that is what was found.
func (r Result) Err() error {
	for _, f := range r.Findings {
		if f.Severity != Blocker {
			continue
		}
		cause := fmt.Errorf("%w: %s", migrate.ErrBlocked, f.Title)
		switch f.ID {
		case IDMigrationRunning:
			cause = fmt.Errorf("%w: %w: %s", migrate.ErrBlocked, migrate.ErrBusy, f.Title)
		case IDNoDomain:
			cause = fmt.Errorf("%w: %w: %s", migrate.ErrBlocked, migrate.ErrNoDomain, f.Title)
		}
		return &migrate.OpError{
			Op: "check", Phase: migrate.PhaseChecking, Side: f.Side, Owner: migrate.OwnerSource, Err: cause, Fix: f.Fix,
		}
	}
	return nil
}

// sortFindings puts the gravest first and keeps the order otherwise.
func sortFindings(fs []Finding) {
	slices.SortStableFunc(fs, func(a, b Finding) int { return a.Severity.rank() - b.Severity.rank() })
}

// document is the JSON form of a Result.
type document struct {
	Schema      string `json:"schema"`
	Domain      string `json:"domain"`
	Source      string `json:"source"`
	Destination string `json:"destination"`
	Blocked     bool   `json:"blocked"`
	// Engine and its reason come with version 1, too; older writers leave them out.
	Engine       migrate.EngineName `json:"engine,omitempty"`
	EngineReason string             `json:"engine_reason,omitempty"`
	Strategy     migrate.Strategy   `json:"strategy,omitempty"`
	Reason       string             `json:"strategy_reason,omitempty"`
	Strategies   []Choice           `json:"strategies"`
	Work         *Work              `json:"work,omitempty"`
	Findings     []Finding          `json:"findings"`
}

// MarshalJSON writes the form that Schema names.
func (r Result) MarshalJSON() ([]byte, error) {
	d := document{
		Schema: Schema, Domain: r.Domain, Source: r.Source, Destination: r.Destination, Blocked: r.Blocked(),
		Engine: r.Engine, EngineReason: r.EngineReason, Strategy: r.Strategy, Reason: r.Reason, Strategies: r.Strategies, Work: r.Work, Findings: r.Findings,
	}
	if d.Strategies == nil {
		d.Strategies = []Choice{}
	}
	if d.Findings == nil {
		d.Findings = []Finding{}
	}
	return json.Marshal(d)
}

// WriteJSON writes the result as one indented object and a newline.
func (r Result) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(r); err != nil {
		return fmt.Errorf("write check result: %w", err)
	}
	return nil
}
