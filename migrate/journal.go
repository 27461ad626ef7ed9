package migrate

import (
	"context"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate/storage"
)

// Journal keeps what a migration has to remember when its coordinator dies. Package migrate/journal implements it.
type Journal interface {
	// Begin takes the guest for this coordinator and writes the entry. ErrBusy names the migration that holds the
	// guest already.
	Begin(ctx context.Context, e Entry) (Log, error)
	// Attach takes over a migration whose coordinator is gone. ErrBusy if it is alive, ErrNoMigration if there is none.
	Attach(ctx context.Context, id string) (Saved, Log, error)
	// Load reads a migration without taking it over.
	Load(ctx context.Context, id string) (Saved, error)
}

// Log is the journal of one migration in the hands of the coordinator that drives it.
type Log interface {
	// Write appends a record and returns once it is durable.
	Write(ctx context.Context, r Record) error
	// Progress replaces the snapshot that others watch. It need not be durable.
	Progress(ctx context.Context, p Progress) error
	// CancelAsked tells whether another process asked to cancel.
	CancelAsked(ctx context.Context) (bool, error)
	// End keeps the report; final closes the migration, otherwise it can still be recovered.
	End(ctx context.Context, r Report, final bool) error
	// Close gives the guest free. It is idempotent.
	Close() error
}

// Entry is what is known of a migration before its first step.
type Entry struct {
	ID     string `json:"id"`
	Domain string `json:"domain"`
	// DomainUUID and SourceHost (the host's UUID) name the guest for good; empty where a hypervisor has none.
	DomainUUID string `json:"domain_uuid,omitempty"`
	// ByUUID: both hosts are asked about the guest by its UUID, so that another domain of its name is not taken for it.
	ByUUID       bool       `json:"by_uuid,omitempty"`
	SourceHost   string     `json:"source_host,omitempty"`
	Source       string     `json:"source"`
	Dest         string     `json:"destination"`
	Engine       EngineName `json:"engine"`
	EngineReason string     `json:"engine_reason,omitempty"`
	Params       Params     `json:"params"`
	Started      time.Time  `json:"started"`
	// WasPaused: the guest stood still on the source before the migration.
	WasPaused bool `json:"was_paused,omitempty"`
	// DestClear: the destination said that it had no such domain, so that what is there later is this migration's.
	DestClear bool `json:"destination_clear,omitempty"`
	// Predicted is what was forecast before the start.
	Predicted map[Strategy]ReportPrediction `json:"predicted,omitempty"`
	// Coordinator tells a person who drives it: host name and process id.
	Coordinator string `json:"coordinator,omitempty"`
}

// Record is one line of the journal: where the migration stood when Step was about to start.
type Record struct {
	At    time.Time `json:"at"`
	Phase Phase     `json:"phase"`
	Owner Owner     `json:"owner"`
	// Step is about to start; zero on the last record.
	Step Step `json:"step,omitempty"`
	// Committed: the destination may run. Landed: it was seen to.
	Committed bool `json:"committed,omitempty"`
	Landed    bool `json:"landed,omitempty"`
	// Paged: all RAM is at the destination. It is said where RAM was left behind, and before anything releases the source.
	Paged bool `json:"paged,omitempty"`
	// CommittedAt is when the commit was written; later records repeat it. Zero before.
	CommittedAt time.Time `json:"committed_at,omitzero"`
	// Images are what the migration made at the destination, or was about to; later records repeat them.
	Images []storage.Made `json:"images,omitempty"`
	// Reason is why it goes back; zero while it goes forward.
	Reason Reason `json:"reason,omitempty"`
	// Outcome is set on the last record; Final tells that nothing is left to recover.
	Outcome Outcome `json:"outcome,omitempty"`
	Final   bool    `json:"final,omitempty"`
	// Note is for a person.
	Note string `json:"note,omitempty"`
}

// Saved is what the journal knows of a migration.
type Saved struct {
	Entry Entry  `json:"entry"`
	Last  Record `json:"last"`
	// Alive tells that a coordinator drives it at this moment.
	Alive bool `json:"alive"`
	// CancelAsked tells that somebody asked to cancel it.
	CancelAsked bool `json:"cancel_asked,omitempty"`
	// Progress is the latest snapshot, Report what its last coordinator left; nil if there is none.
	Progress *Progress `json:"progress,omitempty"`
	Report   *Report   `json:"report,omitempty"`
}
