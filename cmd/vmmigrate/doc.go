// Command vmmigrate moves running QEMU/KVM guests between hosts.
//
// This package holds flags, output and exit codes and nothing else: what is decided is decided in package migrate.
//
// `vmmigrate migrate` is two processes. The one the user sees only watches; the migration runs in a coordinator of its
// own session, which neither a closed terminal nor a killed watcher takes down:
//
//	vmmigrate migrate ──request (stdin)──▶ vmmigrate coordinate ──▶ hosts, journal
//	       ▲  bar, log, JSON                      │
//	       └────────events, a JSON line each──────┘ (lost when nobody reads; the journal has them too)
//
// Ctrl-C in the first sends a cancel request before the commit; after it the watcher leaves and says how to come back.
// The watcher owns the coordinator's process only as its parent; it never kills it.
package main
