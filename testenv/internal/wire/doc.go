// Package wire builds the lab's networks and is the hand on their cables.
//
//	host a                    wire namespace                    host b
//	mig0 ══ tbf ═══ mig-a ──┐               ┌── mig-b ══ tbf ══ mig0
//	                        ├─ br-migration ┤
//	                       (or mig-a ─ link.Forwarder ─ tap-a, where delay or loss is asked for)
//
//	br0 ─ uplink0 ═ gst-a ──┐               ┌── gst-b ═ uplink0 ─ br0
//	 │                      ├── br-guest ───┤                     │
//	taps of guests          │               taps of guests
//	                        └── client ═ client0 in the client's namespace
//
// The wire namespace is held by an open file alone, so all of it vanishes with the
// process that owns the Wire: no device of the machine's own namespace is involved
// and nothing has to be undone. A Wire is safe for use by several goroutines; it
// owns its namespace, its netlink sockets and its forwarders, all of which Close
// releases.
//
// Rates are token buckets (tbf) at the sending end of each direction. A cut takes
// down the wire's end of the cable: the host loses its carrier, and frames vanish
// without an error to the sender, as with a cable that is pulled. Blocked ports
// are policy routing rules at the host (incoming TCP and UDP to these ports is
// routed into a black hole), since neither nft nor a tc action is present on every
// machine: no answer, no reset, also for connections that are already made.
//
// What fails half-way leaves the link as far as it came; the error says which step
// failed, and the same call may be made again.
package wire
