package qmp

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
)

// MigrationChannel is one connection of a migration; build it with MainChannel,
// CPRChannel and the address functions.
type MigrationChannel struct {
	Type string           `json:"channel-type"` // main or cpr
	Addr MigrationAddress `json:"addr"`         // where it leads
}

// MigrationAddress is where a migration channel leads: a socket, a command's
// standard input and output, or a file.
type MigrationAddress struct {
	transport string
	socket    SocketAddress
	args      []string
	filename  string
	offset    int64
}

// SocketTransport leads to a socket.
func SocketTransport(a SocketAddress) MigrationAddress {
	return MigrationAddress{transport: "socket", socket: a}
}

// ExecTransport leads to a command that QEMU starts.
func ExecTransport(args ...string) MigrationAddress {
	return MigrationAddress{transport: "exec", args: args}
}

// FileTransport leads to a file, from offset bytes on.
func FileTransport(filename string, offset int64) MigrationAddress {
	return MigrationAddress{transport: "file", filename: filename, offset: offset}
}

// MarshalJSON gives the form that the transport demands.
func (a MigrationAddress) MarshalJSON() ([]byte, error) {
	switch a.transport {
	case "exec":
		return json.Marshal(map[string]any{"transport": a.transport, "args": a.args})
	case "file":
		return json.Marshal(map[string]any{"transport": a.transport, "filename": a.filename, "offset": a.offset})
	}
	return json.Marshal(struct {
		Transport string `json:"transport"`
		SocketAddress
	}{a.transport, a.socket})
}

// MainChannel carries the migration stream.
func MainChannel(a MigrationAddress) MigrationChannel { return MigrationChannel{"main", a} }

// CPRChannel carries the descriptors of a cpr-transfer migration.
func CPRChannel(a MigrationAddress) MigrationChannel { return MigrationChannel{"cpr", a} }

// MigrateArgs are the arguments of Migrate; one of URI and Channels is set.
type MigrateArgs struct {
	// URI is tcp:HOST:PORT, unix:PATH, fd:NAME, exec:COMMAND or file:PATH.
	URI string `json:"uri,omitempty"`
	// Channels says the same as objects; QEMU 8.2.
	Channels []MigrationChannel `json:"channels,omitempty"`
	// Resume continues a post-copy that is paused, over a new connection.
	Resume bool `json:"resume,omitempty"`
}

// Migrate starts the outgoing migration. Success means started: a connection that
// fails later, like every later failure, shows in QueryMigrate and as a MIGRATION
// event.
func Migrate(ctx context.Context, x Executor, a MigrateArgs) error {
	return run(ctx, x, "migrate", a)
}

// MigrateIncomingArgs are the arguments of MigrateIncoming; one of URI and
// Channels is set.
type MigrateIncomingArgs struct {
	// URI is where to listen, in Migrate's forms.
	URI string `json:"uri,omitempty"`
	// Channels says the same as objects; QEMU 8.2.
	Channels []MigrationChannel `json:"channels,omitempty"`
	// ExitOnError tells whether QEMU ends when the migration fails. Absent means
	// true. With false the status stays readable, but this QEMU cannot be used
	// for a second attempt. QEMU 9.1; older ones refuse the argument.
	ExitOnError *bool `json:"exit-on-error,omitempty"`
}

// MigrateIncoming lets a QEMU that was started with -incoming defer listen.
// QueryMigrate's SocketAddress then tells the port if QEMU chose it.
func MigrateIncoming(ctx context.Context, x Executor, a MigrateIncomingArgs) error {
	return run(ctx, x, "migrate-incoming", a)
}

// MigrateCancel cancels the outgoing migration; the guest goes on at the source.
// It succeeds when there is nothing to cancel and is refused in post-copy. It
// returns before the cancellation is complete.
func MigrateCancel(ctx context.Context, x Executor) error { return run(ctx, x, "migrate_cancel", nil) }

// MigrateContinue leaves a state in which the migration waits, which is
// MigrationPreSwitchover; it is refused in any other.
func MigrateContinue(ctx context.Context, x Executor, from MigrationStatus) error {
	return run(ctx, x, "migrate-continue", map[string]MigrationStatus{"state": from})
}

// MigrateStartPostcopy switches a running migration to post-copy. The capability
// postcopy-ram must have been on at both ends before it began.
func MigrateStartPostcopy(ctx context.Context, x Executor) error {
	return run(ctx, x, "migrate-start-postcopy", nil)
}

// MigratePause pauses an active post-copy, to recover it over another connection.
// It runs out of band where x can, so that a stuck main loop does not stop it.
//
// Do not call it before the destination has left the run state inmigrate. A source
// reports postcopy-active a little earlier, and a connection that is lost in
// between loses the guest: the destination ends, whatever ExitOnError says, and
// the source can neither be continued nor cancelled (seen with QEMU 10.0.2).
func MigratePause(ctx context.Context, x Executor) error { return runOOB(ctx, x, "migrate-pause", nil) }

// MigrateRecover lets the destination of a paused post-copy listen again at uri;
// the source then migrates there with Resume. It runs out of band where x can.
func MigrateRecover(ctx context.Context, x Executor, uri string) error {
	return runOOB(ctx, x, "migrate-recover", map[string]string{"uri": uri})
}

// Names of migration capabilities that this project uses.
const (
	CapAutoConverge          = "auto-converge"
	CapBackgroundSnapshot    = "background-snapshot"
	CapDirtyBitmaps          = "dirty-bitmaps"
	CapDirtyLimit            = "dirty-limit"
	CapEvents                = "events"
	CapIgnoreShared          = "x-ignore-shared"
	CapLateBlockActivate     = "late-block-activate"
	CapMappedRAM             = "mapped-ram"
	CapMultifd               = "multifd"
	CapPauseBeforeSwitchover = "pause-before-switchover"
	CapPostcopyBlocktime     = "postcopy-blocktime"
	CapPostcopyPreempt       = "postcopy-preempt"
	CapPostcopyRAM           = "postcopy-ram"
	CapReleaseRAM            = "release-ram"
	CapReturnPath            = "return-path"
	CapSwitchoverAck         = "switchover-ack"
	CapValidateUUID          = "validate-uuid"
	CapXBZRLE                = "xbzrle"
	CapZeroCopySend          = "zero-copy-send"
)

// Capabilities maps migration capabilities to whether they are on. A capability
// that is not a key is unknown to this QEMU.
type Capabilities map[string]bool

// capabilityState is one capability on the wire.
type capabilityState struct {
	Capability string `json:"capability"`
	State      bool   `json:"state"`
}

// QueryMigrateCapabilities gives all capabilities that QEMU knows.
func QueryMigrateCapabilities(ctx context.Context, x Executor) (Capabilities, error) {
	list, err := query[[]capabilityState](ctx, x, "query-migrate-capabilities", nil)
	if err != nil {
		return nil, err
	}
	caps := make(Capabilities, len(list))
	for _, c := range list {
		caps[c.Capability] = c.State
	}
	return caps, nil
}

// HasCapability reports whether QEMU knows the migration capability, on or off.
func HasCapability(ctx context.Context, x Executor, name string) (bool, error) {
	caps, err := QueryMigrateCapabilities(ctx, x)
	_, ok := caps[name]
	return ok, err
}

// SetMigrateCapabilities switches the capabilities named on or off and leaves the
// others alone. QEMU applies all or none; it refuses combinations that exclude
// each other, and any change while a migration runs.
func SetMigrateCapabilities(ctx context.Context, x Executor, caps Capabilities) error {
	list := make([]capabilityState, 0, len(caps))
	for _, name := range slices.Sorted(maps.Keys(caps)) {
		list = append(list, capabilityState{name, caps[name]})
	}
	return run(ctx, x, "migrate-set-capabilities", map[string]any{"capabilities": list})
}

// AnnounceArgs say how a guest's network cards are announced, in milliseconds.
type AnnounceArgs struct {
	// Initial is the delay before the first round.
	Initial int64 `json:"initial"`
	// Max bounds the delay between rounds.
	Max int64 `json:"max"`
	// Rounds is how many announcements are sent.
	Rounds int64 `json:"rounds"`
	// Step is what the delay grows by each round.
	Step int64 `json:"step"`
	// Interfaces names the cards; none means all.
	Interfaces []string `json:"interfaces,omitempty"`
	// ID names the timer, so that it can be changed or stopped.
	ID string `json:"id,omitempty"`
}

// AnnounceSelf makes the guest's cards announce themselves, so that switches learn
// where they are now. It returns before the rounds are done.
func AnnounceSelf(ctx context.Context, x Executor, a AnnounceArgs) error {
	return run(ctx, x, "announce-self", a)
}

// YankInstance is something whose connection can be cut by force.
type YankInstance struct {
	// Type is migration, block-node or chardev.
	Type string `json:"type"`
	// NodeName is the block node of a block-node.
	NodeName string `json:"node-name,omitempty"`
	// ID is the character device of a chardev.
	ID string `json:"id,omitempty"`
}

// YankMigration is the migration's own connections.
func YankMigration() YankInstance { return YankInstance{Type: "migration"} }

// YankBlockNode is a block node's connection.
func YankBlockNode(node string) YankInstance { return YankInstance{Type: "block-node", NodeName: node} }

// Yank cuts hung connections at once, without goodbye: a migration fails, or
// pauses if it is in post-copy. It runs out of band where x can, as a hung
// connection may have stopped QEMU's main loop.
func Yank(ctx context.Context, x Executor, instances ...YankInstance) error {
	list := append([]YankInstance{}, instances...) // an empty list, never null
	return runOOB(ctx, x, "yank", map[string]any{"instances": list})
}

// QueryYank lists what can be yanked.
func QueryYank(ctx context.Context, x Executor) ([]YankInstance, error) {
	return query[[]YankInstance](ctx, x, "query-yank", nil)
}
