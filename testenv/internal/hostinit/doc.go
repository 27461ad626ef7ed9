// Package hostinit is the first process of a lab host: process 1 of its PID
// namespace, the one that makes its directories, and the parent of its libvirtd.
//
//	lab daemon ── Start ──> hostinit (own network, mount, UTS, IPC and PID namespace)
//	     │                     │ mounts, host name                      → Born
//	     ├── Launch ──────────>│ starts libvirtd                        → Launched
//	     │                     │ waits for every child of the namespace → Exited
//	     └── closes ──────────>│ ends; the kernel kills all that is left in the namespace
//
// The two talk in JSON lines over a socket pair. When the daemon dies the socket
// closes and the host ends with it; when hostinit itself is killed, the kernel
// kills libvirtd and every QEMU with it. So a host can never be left half alive.
//
// Its mounts are in its own mount namespace and never seen by the machine. The
// machine's /etc stays readable: each name in it is a link to the original, except
// for what a host must have of its own.
//
// hostinit does not restart a libvirtd that ended by itself: it reports the end,
// and the lab shows it.
package hostinit
