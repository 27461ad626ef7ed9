package hostinit

import (
	"github.com/vmmigrate/vmmigrate/testenv/internal/layout"
)

// Op is what the daemon asks of a host.
type Op string

// The operations.
const (
	// OpSetup is the first: make the directories and mounts. Answered by EventBorn.
	OpSetup Op = "setup"
	// OpLaunch starts libvirtd, after stopping one that runs; its guests go on.
	// Answered by EventLaunched.
	OpLaunch Op = "launch"
	// OpStop stops libvirtd; its guests go on. Answered by EventStopped.
	OpStop Op = "stop"
)

// Request is one line from the daemon to the host.
type Request struct {
	Op   Op           `json:"op"`
	Plan *layout.Plan `json:"plan,omitempty"`
	Host string       `json:"host,omitempty"`
}

// EventKind is what a host reports.
type EventKind string

// The events.
const (
	EventBorn     EventKind = "born"
	EventLaunched EventKind = "launched"
	EventStopped  EventKind = "stopped"
	// EventExited reports a libvirtd that ended without being asked to.
	EventExited EventKind = "exited"
	// EventFailed answers a request that could not be done.
	EventFailed EventKind = "failed"
)

// Event is one line from the host to the daemon.
type Event struct {
	Kind EventKind `json:"kind"`
	// PID is the host's first process as the machine counts it (EventBorn).
	PID int `json:"pid,omitempty"`
	// Text is the reason (EventFailed) or how libvirtd ended (EventExited).
	Text string `json:"text,omitempty"`
}
