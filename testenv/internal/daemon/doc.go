// Package daemon is the process that a lab consists of: it builds the networks,
// starts the hosts, holds both for as long as the lab is up, and does what other
// processes ask about them.
//
//	Up ── Start ──> daemon (process 1 of the lab's PID namespace, in the client's network namespace)
//	 │               ├── wire: bridges, cables, forwarders
//	 │<── Progress ──┤── host a (hostinit) ── libvirtd, QEMU …
//	 │<── Progress ──┤── host b (hostinit) ── …
//	 │<── Ready ─────┘── control socket
//
// Everything hangs on this one process. Whoever kills it, or whatever bug ends it,
// the kernel ends everything in the PID namespaces below it, and the network and
// mount namespaces, which nothing else holds, vanish with their devices and mounts.
// Files are all that remains; Down removes them.
//
// Until it is ready the daemon also ends when the process that started it does,
// which it notices as the end of their connection. A lab that is bound stays tied
// to that process for good: it is what tests use, so that a test that is killed
// leaves nothing running.
package daemon
