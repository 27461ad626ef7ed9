// Package owner names the one process on which a whole lab hangs, so that another
// process can find it, tell it from a stranger with the same number, and end it.
//
// The daemon of a lab is process 1 of a PID namespace; each host is a PID namespace
// below it. When the daemon dies, by whatever means, the kernel kills everything
// below it before anyone sees the daemon as gone, and mounts and devices go with
// their namespaces. Ending a lab is therefore ending one process and waiting for it.
//
//	state.json ── Identity {PID, start time, boot} ──┐
//	                                                 ├─> Kill ─> SIGKILL through a pidfd, wait
//	/proc: argv "vml-NAME" DIR ─── Find ─────────────┘
//
// Find is for the case that the state was never written or is damaged.
package owner
