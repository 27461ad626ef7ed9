// Package agent is how a coordinator speaks with our process on a host: what it may ask for (Agent, Source, Dest), and the
// way there.
//
//	coordinator ── control (gRPC) ──> source's agent ── data connections ──> destination's agent <── control ── coordinator
//	                                  tracker, NBD server                    NBD client, sink, pager
//
// The package knows nothing of trackers and pagers: what an agent does when it is asked is handed to it.
package agent
