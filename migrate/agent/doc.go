// Package agent is how a coordinator speaks with our process on a host: what it may ask for (Agent, Source, Dest,
// Exported), and the way there.
//
//	coordinator ── control (gRPC) ──> source's agent ── data connections ──> destination's agent <── control ── coordinator
//	                                  tracker, NBD server                    NBD client, sink, pager
//
// The package knows nothing of trackers and pagers: what an agent does when it is asked is handed to it.
//
// # The ways
//
// A Connector picks one by migrate.Place:
//
//	local      our own program as a child (nsenter into the host's namespaces if it has others), a socket as its stdin and stdout
//	ssh        the user's ssh runs the program there, if it is exactly our version; else a copy of ours, checked by its
//	           checksum and removed from the disk as soon as it runs
//	installed  TCP to port 16510, TLS both ways with libvirt's certificates, and a list of who is let in (Allowed); the
//	           Front there starts an agent process for each coordinator
//
// # What is said
//
//	agent        {"vmmigrate":"agent","protocol":1,"version":"…"}\n     or with "refused" and "fix"
//	coordinator  {"vmmigrate":"coordinator","protocol":1,"version":"…"}\n
//	both         gRPC over the same connection, service vmmigrate.agent.v1.Agent
//
// The lines come before gRPC, so that ends of different protocols can part with both versions named. Messages are strict
// JSON, fields that the receiver does not know are refused; sets of pages travel beside it, as runs or as bitmaps, and are read
// only for blocks that were opened. Fetch and Page stream their progress, of which the newest counts. Errors travel in a
// trailer: their text, what they wrap of migrate's sentinels, and op, phase, side, owner and fix of an OpError.
//
// A call that its caller has given up is cancelled at the agent, and what is asked of the same end next waits for it. A
// connection that is silent for half a minute is lost; it is never made anew, since the ends that were opened over it went
// with it.
//
// NBD clients of exports are carried over the control connection, each as a stream both ways (carry.go), so that no port is
// opened on the host and whoever may steer the agent may read, and nobody else.
//
// Disk images are described, made and removed by package storage, on the agent's host and as root.
//
// # Owning and ending
//
// ServeConn owns connection and implementation: when the connection ends, by whatever, calls are cancelled and the
// implementation is closed, which for a guest that is being paged in takes until all of its RAM has arrived. A Client owns
// its connection; a child that it came with is waited for for two seconds, and goes on by itself if it stays for its guest
// (the one goroutine here that nobody waits for ends with that child). Children have a session of their own: a Ctrl-C or a
// coordinator that is killed does not reach them.
//
// # Who is trusted
//
// An agent does what a coordinator asks: whoever is let in may take any guest of the host. Data connections (package
// datalink) trust one certificate each, which the coordinator hands from one agent to the other.
package agent
