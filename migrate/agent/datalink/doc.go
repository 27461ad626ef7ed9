// Package datalink makes and keeps the data connections between the two agents of a migration. The source's agent dials,
// the destination's listens, whatever way the data flow then.
//
//	source's agent                                destination's agent
//	Keeper ── TCP ── TLS, both ends pinned ── {version, migration, token, role, index}\n ──> Acceptor
//	   serve(ctx, conn) <───────────────────────────────── {version, ok}\n ──────────────── Next(ctx, role)
//
// Roles: bulk (several, by index), demand (one), stream (QEMU's own, one, never dialled again), mirror (a disk's, by index, dialled
// when QEMU connects, never again). Each line is one JSON object
// of at most 1 KiB, unknown fields refused. It is read byte by byte, so that nothing of what follows is swallowed. The token is
// compared in constant time, and a handshake that takes longer than Config.Timeout is given up.
//
// A Keeper holds its connections up: it dials each, hands it to serve, and when serve has returned dials anew, with
// growing pauses, until it is closed. A connection that comes anew for a role and index supersedes the old one, which the
// Acceptor closes: so the destination notices a cut link at the latest when the source is back. Both ends let the kernel
// give up on a silent peer after Config.Patience instead of a quarter of an hour.
//
// Ownership: an Acceptor owns its listener, its goroutines and the connections nobody has taken yet; what Next gave
// belongs to the caller. A Keeper owns all of its connections and goroutines; a connection is closed when serve returns or
// the Keeper is closed. Close of either is idempotent and waits for its goroutines.
//
// Without TLS the token goes over the wire as it is: that is for networks that are trusted, when both ends were told so.
// The package does not know what is spoken over its connections.
package datalink
