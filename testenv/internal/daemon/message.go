package daemon

import (
	"github.com/vmmigrate/vmmigrate/testenv/internal/layout"
	"github.com/vmmigrate/vmmigrate/testenv/internal/owner"
)

// ControlFD is the descriptor of the connection with the process that started the
// daemon.
const ControlFD = 3

// Start is the first and only line that the daemon is sent.
type Start struct {
	Plan layout.Plan `json:"plan"`
	// Bound labs end with the process that started them.
	Bound bool `json:"bound"`
}

// Report is one line of what the daemon tells while it builds. Exactly one of its
// fields is set.
type Report struct {
	// Progress is a step that is done, for people.
	Progress string `json:"progress,omitempty"`
	// Ready is the last report of a daemon that has succeeded.
	Ready *State `json:"ready,omitempty"`
	// Error is the last report of one that has not; it is about to end.
	Error string `json:"error,omitempty"`
}

// State is what the lab's state file holds.
type State struct {
	// Version is 1.
	Version int            `json:"version"`
	Plan    layout.Plan    `json:"plan"`
	Daemon  owner.Identity `json:"daemon"`
	Bound   bool           `json:"bound"`
	// Ready is false while the lab is coming up.
	Ready bool `json:"ready"`
	// Hosts are the first processes of the hosts, by name.
	Hosts map[string]owner.Identity `json:"hosts,omitempty"`
}
