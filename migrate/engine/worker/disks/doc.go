// Package disks is what an agent does for a guest's disks, on both hosts: two ends with data connections of their own
// (agent.Disks), which know nothing of the guest's RAM.
//
//	           source's agent                                  destination's agent
//	after      image ── file or qemu-nbd ── NBD server ══════▶ NBD clients ── cache ── NBD server ── unix socket ── QEMU
//	           live/T until Freeze, disk/T from then on        demand: what the guest reads; bulk: the rest
//	mirror     QEMU ── unix socket ═══════ mirror ═══════════▶ NBD server ── ranges ──▶ image (file or qemu-nbd)
//	           live/T, sums/T ── NBD server ═════════════════▶ NBD clients ── compare, bring ──┘
//
// # After
//
// The guest runs at the destination, above the export of each disk. A unit of 64 KiB is missing, zero or present; what is fetched
// is kept in the cache, a sparse file with a mark for each unit, which is set after the unit's bytes are written: so an agent
// that takes over knows what is there, whatever killed the one before. A read of what is missing goes ahead of everything that
// is fetched besides, on a connection of its own, and waits for as long as the source cannot be reached. Until Thaw reads get
// what the source has at the moment, and nothing is kept: a QEMU looks at its disks before the guest comes.
//
// Freeze takes QEMU's own locks on the source's images, and refuses while somebody writes them. From then on nobody can run the
// guest there: they are let go of by Close.
//
// # Mirror
//
// The guest runs at the source, whose QEMU mirrors what it writes from now on, and nothing else. Fetch brings the rest of the
// image in line, in units of 4 KiB: all that the source has, or with Reuse what differs by its checksums (SHA-256, cut to 16
// bytes). Newer wins: what the mirror has written of a range since it was read for Fetch is not written over. Settle ends it,
// with the guest at a standstill and the mirror write-blocking: it refuses if anything may be missing.
//
// # Owning and ending
//
// Ends own what they open: connections, sockets, children (qemu-nbd, which dies with us), caches. A lock that only one agent of
// a host has for a migration's disks lets another take over. An end that a guest needs stays after its coordinator is gone
// (Linger), until it needs it no more.
package disks
