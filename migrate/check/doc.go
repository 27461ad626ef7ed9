// Package check looks at both hosts before a migration and changes nothing. What it finds comes with its severity and
// a fix of one line.
//
//	             acts (reads only)                    decides (pure)
//	hosts ──┐
//	        ├──> Gather ──────────────> Facts ──┬──> Evaluate ──> findings ──> Result ──> text, JSON
//	views ──┘    each query has a deadline      └──> Resolve  ──> strategy and the reason
//
// Facts also decide who moves the RAM (ChooseEngine): the nbd engine where it is to be had and nothing speaks against it,
// else native, with the reason.
//
// Gather asks the host drivers through migrate.Host and through small optional interfaces (host.go), and looks at the
// hosts themselves through views: the network and the files as the source's and the destination's own hypervisor see
// them (view.go). A query that fails or that nobody can answer becomes "could not tell" and a finding of severity
// unknown, never a guess. Evaluate and Resolve do no I/O and give the same answer for the same Facts.
//
// The IDs of findings are stable; ids.go lists them. A finding of severity unknown bears the ID of what could not be
// ruled out. Only blockers stop a migration.
//
// Two things are done on the network: names are resolved, and one or two ports are dialled from the source and hung up
// at once. A port that may have a listener of its own is never dialled, since that could be a QEMU which waits for
// another guest; the exception is a daemon's port in peer-to-peer, where a connection is what the daemon expects.
//
// Key files are never read, only their permissions. Nothing is written anywhere. Gather waits for the goroutines it
// starts, and closes what it opens; hosts and views passed in stay the caller's.
//
// The package does not measure bandwidth or dirty rates, nor does it predict: it says whether a migration can work, not
// how long it takes.
package check
