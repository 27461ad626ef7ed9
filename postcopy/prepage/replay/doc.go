// Package replay plays a recorded trace of page faults against a pre-paging policy and a model of a link, and tells how
// many demand faults were left and how long the guest stood still for them. It is how policies are compared without a
// guest, and how a change to one is shown to be a gain.
//
//	trace ──> Play(policy, link) ──> Result
//	 ^                                  faults, stalls, time until all is there
//	 Recorder, in a real post-copy with policy none; or Sequential, Zipf, ...
//
// A trace holds the first touch of each page, by the thread that touched it, which is what a post-copy without
// pre-paging sees as faults. Between two touches a thread thinks: that is the time between them in the recording, less the
// time that the recording's own fault took (Trace.Cost).
//
// The model: a thread that touches a page that is not there stands still until it is. The other threads go on. A demand
// fault takes half a round trip to the source, waits for at most Link.Queue bytes of what is on the wire already, is sent,
// takes half a round trip back, and Link.Local besides. Bulk requests go first in, first out, with at most Link.Window bytes of
// them under way, and a request's pages are there when all of it is.
//
// What it leaves out: losses, the time that placing takes, huge pages that split, threads that touch in another order when they
// are faster, and pages that a guest discards. Figures of it compare policies; they do not foretell a migration.
//
// The form of a trace is comma-separated values, one record a line, blocks first, sizes in bytes and times in
// nanoseconds since the first record:
//
//	vmmigrate.faults,1
//	block,pc.ram,268435456,4096
//	cost,52000               a fault of the recording took that long (may be left out)
//	missing,0,16,4096        pages 16 up to, not with, 4096 of block 0 (left out altogether: all pages)
//	hot,0,77                 hottest first (may be left out)
//	fault,1200,0,77,3        at 1.2 µs thread 3 touched page 77 of block 0
//
// All is pure but the reading and writing, which are the caller's files.
package replay
