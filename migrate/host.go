package migrate

import (
	"context"
	"time"

	"github.com/vmmigrate/vmmigrate/qmp"
)

// Host is one hypervisor that a driver is connected to; migrate/libvirthost and migrate/qemuhost provide it. All of its
// methods only look. They are safe for use by several goroutines, return when ctx ends even if the hypervisor does not
// answer, and report a lost connection as ErrLinkLost.
type Host interface {
	// URI is what the user wrote, without secrets.
	URI() string
	// Facts tells of the host itself.
	Facts(ctx context.Context) (HostFacts, error)
	// Domain describes a domain, running or not; ErrNoDomain if there is none of that name (or UUID).
	Domain(ctx context.Context, name string) (DomainFacts, error)
	// State tells whether the domain runs; ErrNoDomain if there is none.
	State(ctx context.Context, name string) (GuestState, error)
	// Close ends the connection and waits for the driver's goroutines. It is idempotent.
	Close() error
}

// Watcher delivers a domain's events. The channel is closed when ctx ends or the connection is lost. A slow reader
// loses events, never blocks the driver. Watch returns once the subscription is in force.
type Watcher interface {
	Watch(ctx context.Context, name string) (<-chan GuestEvent, error)
}

// RoundlessWatcher is a Watcher that can leave EventRound out, for a migration whose rounds are not QEMU's.
type RoundlessWatcher interface {
	WatchRoundless(ctx context.Context, name string) (<-chan GuestEvent, error)
}

// Offer is what a source says of a guest that it is ready to send: opaque to all but the drivers, which pass it on.
type Offer struct {
	Name string
	// UUID of the guest, canonical form; empty if it has none.
	UUID string
	// XML is the domain's description (libvirt), or the driver's own (bare QEMU).
	XML    string
	Cookie []byte
	// Paused tells that the guest stood still when the migration began; it then stays so at the destination.
	Paused bool
	// Definition is the domain's definition to leave at the destination with Params.Persistent, where the driver needs
	// it there; it may differ from the running guest's XML.
	Definition string
}

// Ticket is the destination's answer to an Offer: where the source sends to.
type Ticket struct {
	// URI is where RAM goes, such as tcp://b:49152.
	URI    string
	Cookie []byte
}

// Source is a host that can send a guest away. A migration calls Begin, Perform, Switch and Confirm once each, in this
// order, as in libvirt's five phases; Prepare and Finish of the Destination lie in between:
//
//	Begin → Prepare → Perform → (commit) → Switch → Finish → Confirm
//
// If Prepare fails: Confirm(landed=false). If Perform fails: Finish(landed=false), no Confirm; the guest runs on the
// source, or Perform's error says otherwise. With Params.Resume the same calls recover a paused post-copy migration.
type Source interface {
	Host
	Watcher
	Steering
	// Begin opens the migration; the guest is not touched.
	Begin(ctx context.Context, name string, p Params) (Offer, error)
	// Perform moves disks and RAM. It returns nil once the guest stands still on the source and only the steps after
	// the commit are left. Ending ctx does not abort it (use Cancel, and Perform returns): it only stops waiting.
	Perform(ctx context.Context, o Offer, p Params, t Ticket) (Ticket, error)
	// Switch lets the source send its device state, for drivers whose Perform stops short of it (bare QEMU); the
	// destination may run from then on. Others return at once.
	Switch(ctx context.Context, o Offer, p Params) error
	// Confirm releases the source: landed tells whether the destination runs the guest. With false the guest runs on.
	Confirm(ctx context.Context, o Offer, p Params, t Ticket, landed bool) error
}

// Steering is what can be done to a migration from the source while Perform or Finish runs.
type Steering interface {
	// Stats reads the figures of the running or just ended job; a figure that is not known is absent.
	Stats(ctx context.Context, name string) (Stats, error)
	// Tune changes bandwidth and the accepted pause while it runs; zero fields are left as they are.
	Tune(ctx context.Context, name string, t Tuning) error
	// StartPostcopy asks a pre-copy to go over to post-copy.
	StartPostcopy(ctx context.Context, name string) error
	// Cancel aborts before the commit; the guest runs on the source. It is safe to call when nothing runs.
	Cancel(ctx context.Context, name string) error
	// Pause breaks a post-copy whose link has stalled, so that it can be recovered.
	Pause(ctx context.Context, name string) error
}

// Destination is a host that can take a guest in.
type Destination interface {
	Host
	Watcher
	// Prepare starts a QEMU that waits for the guest.
	Prepare(ctx context.Context, o Offer, p Params) (Ticket, error)
	// Finish lets the guest run (landed=true, after Perform succeeded and the commit is written), or removes what
	// Prepare made (landed=false). In post-copy it returns only when all RAM has arrived; the RESUME event tells when
	// the guest runs. An error that wraps ErrNotLanded says for certain that the guest does not run here; after any
	// other error the caller has to ask State over a new connection.
	Finish(ctx context.Context, o Offer, p Params, t Ticket, landed bool) error
}

// Reconnector is a destination that may be able to take a new link for a paused post-copy even while its QEMU waits for a
// page of the guest in its main loop, as it does once a network card or a disk touches RAM that has not arrived. QEMU
// then answers only out-of-band commands, which libvirt does not send; a link that is broken off there is lost for good.
type Reconnector interface {
	TakesNewLink() bool
}

// EarlyFinisher is a Destination that can be told to run the guest before Perform has returned. It closes a gap in
// which libvirt loses a guest whose coordinator dies: once a post-copy has switched and until Finish, nobody but the
// coordinator's connection keeps the destination alive, and the source cannot go back.
type EarlyFinisher interface {
	// FinishesEarly tells that Finish(landed=true) may be called, with Prepare's Ticket, while Perform still runs, once
	// the commit is written; best just before StartPostcopy. It then waits for the guest, and fails with ErrNotLanded
	// if Perform fails.
	FinishesEarly(p Params) bool
}

// Severer is a source that can close the connections of a migration whose link is dead. QEMU then fails at once, and the
// guest runs on, instead of waiting for TCP to give up; until that it may stand still and hear no cancel.
type Severer interface {
	// Sever closes the connections over which the guest is being sent to the ticket's destination. It is for use before
	// the commit only.
	Sever(ctx context.Context, name string, t Ticket) error
}

// Custodian repairs what a dead coordinator left. Both host drivers provide it.
type Custodian interface {
	// ResumeGuest runs a guest that stands still here: at the source after a migration away failed, or at the
	// destination if it has all of the guest and was never told to run it. The caller made sure that no other host
	// runs it. It refuses a guest that has not arrived, or of which another host may need the RAM.
	ResumeGuest(ctx context.Context, name string) error
	// Release removes a guest's leftover at the source after the destination took it over. undefine also drops its
	// definition. It refuses a guest that runs.
	Release(ctx context.Context, name string, undefine bool) error
	// Discard removes a domain that was prepared here and never ran. It refuses one that runs or ran.
	Discard(ctx context.Context, name string) error
}

// Monitored is a host whose guests' QEMU can be asked directly. Both host drivers provide it, as a source.
type Monitored interface {
	// Monitor runs QMP commands in the QEMU of the domain. It does not wait for a destination that is taking a guest in.
	Monitor(ctx context.Context, name string) (qmp.Executor, error)
}

// DiskMapper is a source that can give a guest's disks other places at the destination. A QEMU that was started by its owner
// has the disks that it was started with.
type DiskMapper interface {
	// MapDisks gives the parameters what Params.Disks asks for: descriptions of the guest with the disks in their new
	// places. They are left as they are if no disk is to go elsewhere.
	MapDisks(ctx context.Context, name string, p Params) (Params, error)
}

// Located is a host that knows where an agent for it belongs.
type Located interface {
	// Place tells where this host's QEMU processes are, as seen from here.
	Place(ctx context.Context) (Place, error)
}

// Place is where an agent of a host has to run, and how it finds a guest there.
type Place struct {
	// Local: the host's processes are on this machine; PID is one of them, in whose namespaces an agent has to run.
	Local bool
	PID   int
	// SSH is the destination of an ssh command, and SSHArgs its options (port, key), if the host is reached that way.
	SSH     string
	SSHArgs []string
	// SocketDir is a folder on the host in which its QEMU processes may make sockets.
	SocketDir string
	// Name is the host's name or address for a connection to an installed agent.
	Name string
	// PIDFile gives the path, on the host, of the file with the process number of a domain's QEMU; empty if there is
	// none, and then PID is that process itself.
	PIDFile func(domain string) string
}

// PeerMigrator is a source whose daemon drives a whole migration by itself (libvirt's peer-to-peer).
type PeerMigrator interface {
	// MigratePeer blocks until the migration has ended. Ending ctx stops the waiting only.
	MigratePeer(ctx context.Context, name string, p Params, destURI string) error
}

// RunState is what a guest does on one host.
type RunState string

// The run states. RunStopped is a guest whose process is gone though the host still has its definition.
const (
	RunRunning RunState = "running"
	RunPaused  RunState = "paused"
	// RunIncoming waits for a migration and has never run here.
	RunIncoming RunState = "incoming"
	// RunMigrated stands still here after its state was sent away.
	RunMigrated RunState = "migrated"
	// RunPostcopy runs here while RAM is still being fetched, or, at the source, stands still and serves that RAM.
	// RunPostcopyPaused is the same, at either end, waiting for its link to be remade.
	RunPostcopy       RunState = "postcopy"
	RunPostcopyPaused RunState = "postcopy-paused"
	RunStopped        RunState = "stopped"
	RunCrashed        RunState = "crashed"
)

// GuestState is a domain's state on one host.
type GuestState struct {
	Run RunState `json:"run"`
	// Reason is the hypervisor's own word for it.
	Reason string `json:"reason,omitempty"`
	// Job tells that a migration job is active on the domain.
	Job bool `json:"job,omitempty"`
}

// EventKind is what happened to a guest.
type EventKind string

// The events a driver delivers. EventRound is the start of another pre-copy round (its number in Round).
const (
	EventStop      EventKind = "stop"
	EventResume    EventKind = "resume"
	EventRound     EventKind = "round"
	EventMigration EventKind = "migration" // Detail = QEMU's or libvirt's status word
	EventShutdown  EventKind = "shutdown"
	EventIOError   EventKind = "io-error"
)

// GuestEvent is one event of a guest on one host.
type GuestEvent struct {
	Kind EventKind
	// At is the host's own time stamp (QEMU's); zero if the event carries none. Seen is when it arrived here.
	At, Seen time.Time
	Round    int
	Detail   string
}

// Tuning changes a running migration. Zero fields are left alone.
type Tuning struct {
	Bandwidth         int64 // bytes per second
	BandwidthPostcopy int64 // bytes per second
	BandwidthDisk     int64 // bytes per second, of all disks together
	MaxDowntime       time.Duration
}

// Stats are the figures of one migration job. A nil pointer means: not known. Sizes in bytes.
type Stats struct {
	// Status is the hypervisor's word: setup, active, pre-switchover, device, postcopy-active, postcopy-paused,
	// postcopy-recover, completed, failed, cancelled, none.
	Status  string
	Error   string
	Elapsed time.Duration

	RAMTotal, RAMRemaining, RAMSent *int64
	// Sent counts all bytes on the wire, RAM and headers; NormalPages and ZeroPages count pages of PageSize bytes.
	NormalPages, ZeroPages, PageSize *int64
	// Reused are those of NormalPages that the destination had in an older copy.
	Reused *int64
	// Round is the pre-copy pass under way, from 1.
	Round *int64
	// DirtyRate and Bandwidth are bytes per second.
	DirtyRate, Bandwidth *int64
	// The sums over all disks, and what is known of each.
	DiskTotal, DiskRemaining, DiskSent *int64
	Disks                              []DiskStats
	// Downtime is the hypervisor's own figure; the coordinator measures its own by events.
	Downtime, SetupTime, ExpectedDowntime *time.Duration
	// Faults counts the page requests of the destination in post-copy, FaultUS tells how long they took, and Prepaged
	// counts the pages that came before they were asked for.
	Faults   *int64
	FaultUS  *ReportFault
	Prepaged *int64
	// Nonzero is how much of the RAM is known not to be zero.
	Nonzero *int64
	// Throttle is the CPU throttle in percent.
	Throttle *int64
}

// DiskStats are the figures of one disk that travels with the guest. A nil pointer means: not known. Sizes in bytes.
type DiskStats struct {
	// Name is the disk's target, such as vda.
	Name string
	// Total is the work as known now, which grows with what the guest writes; Sent is what of it is done. Both are the
	// hypervisor's: it counts blocks of zeros, which go over the link as a few bytes.
	Total, Remaining, Sent *int64
	// InStep tells that the copy has caught up with the guest once and follows it since.
	InStep bool
	// Way is how the disk is moved, such as mirror; Writes is how the guest's writes get to the destination, background or
	// write-blocking. Empty: not known.
	Way, Writes string
	// Waits says why the copy stands still, and what a person can do about it; empty while it does not.
	Waits string
	// Advice is what a person should know of the copy: a decision, or what could be done better the next time.
	Advice string
}

// How disks are moved, and how the guest's writes get to the destination meanwhile.
const (
	WayMirror        = "mirror"
	WayAgents        = "agents"
	WayAfter         = "after"
	WritesBackground = "background"
	WritesBlocking   = "write-blocking"
)
