package migrate

import (
	"context"

	"github.com/vmmigrate/vmmigrate/migrate/storage"
)

// Engine moves guests in one way. Package migrate/engine has them.
type Engine interface {
	Name() EngineName
	// Open plans one migration between two hosts. Nothing is changed by it.
	Open(ctx context.Context, j Job) (Session, error)
}

// Job is one migration: who, from where, to where, how. The hosts stay the caller's to close.
type Job struct {
	ID     string
	Domain string
	Source Host
	Dest   Host
	Params Params
	// Commit writes the commit to the journal and returns once it is durable. The coordinator calls it itself between
	// Copy and Resume; an engine calls it earlier, inside Copy, before a step after which the source could not go on
	// alone: QEMU's post-copy cannot be cancelled once the switch to it was asked for. It is idempotent. If it fails
	// the step must not be done. From then on a Copy that fails leaves the owner to be found by asking both ends.
	Commit func(ctx context.Context) error
	// Keep writes to the journal which images this migration makes at the destination and returns once that is durable: an
	// engine calls it with all of them before each is made, and again before it gets its name. They are removed if the
	// guest does not land. Nil: nobody removes them.
	Keep func(ctx context.Context, images []storage.Made) error
	// Kept are the images that Keep was told of, for a coordinator that goes on with what another began.
	Kept []storage.Made
	// Sink gets what the engine sees; it is never nil in a Session and never blocks for long.
	Sink Sink
	// Reached, if set, is called where the engine has come to one of ParkPoints, and may hold it up there for a test.
	Reached func(ctx context.Context, point string)
}

// Sink takes what an engine observes while it works. Its methods may be called from several goroutines.
type Sink interface {
	// Stats is called several times a second while a job runs.
	Stats(Stats)
	// Guest is called for each event of the guest, with the side it happened on.
	Guest(Side, GuestEvent)
	// Note records a decision or an oddity that a reader of the report should see.
	Note(text string)
}

// Session is one migration in the hands of an engine. The coordinator calls the steps one after the other and never two
// at once, except that Cancel may be called during Prepare and Copy. Each step returns when ctx ends; what it left
// half-done is then for Undo, Ends and Recover to find out.
//
//	Prepare → Copy → (commit) → Resume → Page → Finish
//	Prepare or Copy fails → Undo
//	Resume fails with ErrNotLanded → Undo; with anything else → Ends decides
//	Page returns ErrPaused → Recover, again and again, then Page
//	opened with Params.Resume: Recover → Page → Finish, nothing else
//
// With Params.PeerToPeer the source's daemon does it all inside Copy, which commits before it begins and may be cancelled
// as long as the daemon can; the steps after it have nothing left to do.
//
// An error is sorted by what it wraps (ClassOf): ErrNotLanded only for certain, ErrPaused only past the commit, and
// ErrLinkLost where an answer was lost. It is safe to claim too little: whatever else fails, both ends are asked.
type Session interface {
	// Prepare makes the destination wait for the guest.
	Prepare(ctx context.Context) error
	// Copy moves disks and RAM and returns nil when the guest stands still on the source, ready for the commit.
	Copy(ctx context.Context) error
	// Cancel makes a running Copy return ErrCancelled soon.
	Cancel(ctx context.Context) error
	// Resume lets the destination run the guest; it returns when the guest is known to run there.
	Resume(ctx context.Context) error
	// Page returns when all RAM is at the destination; at once for a pure pre-copy.
	Page(ctx context.Context) error
	// Recover makes the link of a paused post-copy anew; Page goes on after it. Where agents fetch the RAM it attaches
	// them again, whether or not they are still at it, and may be called when nothing is broken; the guest may stand
	// still at the destination then, and is run after it.
	Recover(ctx context.Context) error
	// Finish releases the source.
	Finish(ctx context.Context) error
	// Undo takes everything back before the commit: destination removed, guest running on the source.
	Undo(ctx context.Context) error
	// Close frees what the session holds; it changes nothing on either host.
	Close() error
}

// Yielder is a Session that may hold something without which a guest cannot go on at the source.
type Yielder interface {
	// Yield gives it back: the destination was found not to run the guest, and the source is about to.
	Yield(ctx context.Context) error
}

// Bringer is a Session whose agents may bring what the guest at the destination waits for.
type Bringer interface {
	// Brings tells that they do. Recover needs no answer of the destination's hypervisor then, and must not wait for one: a QEMU
	// that waits for a page may answer nobody until it has it.
	Brings() bool
}

// DiskLeaver is a Session that may have left something beside disks that came after the guest.
type DiskLeaver interface {
	// LeaveDisks takes it away: all of the disks are there, but whoever brought them did not come to its end.
	LeaveDisks(ctx context.Context) error
}

// Ends is what both hosts answer when asked about the guest. A nil state means that there is no such domain there; an
// error that the host could not be asked.
type Ends struct {
	Source, Dest       *GuestState
	SourceErr, DestErr error
}
