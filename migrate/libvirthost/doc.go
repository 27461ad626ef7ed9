// Package libvirthost drives hosts through libvirt's remote protocol: it connects to a daemon, describes its guests and
// makes libvirt's own calls for a migration, one by one, as libvirt's client does.
//
//	         Host (implements migrate's interfaces)
//	          │  do, look, slowLook: a context for each call, a limit of calls under way
//	      go-libvirt (all calls and their answers)          hub ── Watch, Watch, …
//	          │                                              ▲
//	        wire: whole, bounded packets ─── events ─────────┘
//	          │   └── pulse: keepalives both ways
//	unix, tcp, tls, ssh (the user's own program)
//
// # The five calls
//
//	source       Begin                Perform            Confirm
//	destination         Prepare                 Finish
//
// Each takes the cookie of the one before. Begin takes a job that libvirt holds until Confirm or until the connection
// closes. The destination's QEMU does not run the guest before Finish, in post-copy either: Finish is the commit.
// In pre-copy, Perform returns when all is sent; in post-copy, when the device state is. Finish then lasts until all RAM
// is there. Confirm is called without Finish's cookie, which holds nothing but figures.
//
// # What a client leaves that dies
//
// Measured with libvirt 11.3; death_test.go has each line. "Dies" means that its connections close; a machine that is
// gone without a word is found by libvirt's keepalives after half a minute.
//
//	it dies                       source                              destination            what brings it back
//	after Begin, after Prepare    running, no job                     gone                   nothing to do
//	in Perform, before a switch   running, no job                     gone                   nothing to do
//	after Perform                 paused/migration, no job            gone                   ResumeGuest
//	after Finish                  paused/migration, no job            running                Release
//	after Perform of a post-copy  paused/postcopy-failed, job         gone, never ran        NOTHING: the guest is lost
//	in Finish of a post-copy      paused/postcopy-failed, job,        running/postcopy, job, nothing: libvirt ends it by
//	                              though it goes on serving RAM       then running           itself and removes the source
//	after Finish of a post-copy   paused/postcopy-failed, job         running                Release
//	any time in peer-to-peer      as if nobody had died               the same               nothing: the daemons go on
//
// Only one connection is lost, and the client lives:
//
//	the source's, in Perform      the copying goes on; then           waits                  Finish(landed=false), then
//	                              paused/migration, no job                                   ResumeGuest
//	the destination's, in Perform Perform fails, running              gone                   nothing to do
//	the destination's, after it   paused/migration, job               gone                   Confirm(landed=false)
//
// The line in capitals is a gap of some milliseconds between two calls that libvirt's own client has too: QEMU refuses
// to run a source that went over to post-copy. Two ways close it. Let the daemons do it all (Params.PeerToPeer). Or call
// Finish early (FinishesEarly): with the commit written, before StartPostcopy, while Perform runs. libvirt then waits
// for the guest and runs it at once, and a client that dies at any later moment leaves
//
//	before the switch             the copying goes on; then           running                Release
//	                              paused/migration, no job
//	after it                      as in Finish of a post-copy, above
//
// # RAM that somebody else moves
//
// With Params.SharedRAM nothing is asked of libvirt that it would not do else: QEMU is told by others, through Monitor at
// the source and, since libvirt passes no command on to a QEMU that waits, through a monitor of its own at the destination
// (WithMonitor). RAM's stream may go over unix sockets; Ticket.URI may name another than the destination's, so that it
// passes through other hands; disks then need a DisksURI, tcp or unix. Seen with libvirt 11.3: all five phases, with and
// without disks; Finish called while the stream is held back returns once the guest runs, without waiting for Perform;
// and if the stream is cut instead, Perform fails, the guest runs on at the source, and Finish says that it did not land.
//
// # States
//
//	libvirt                                job        RunState          repairs allowed
//	running, blocked, shutting down        any        running           ResumeGuest (does nothing)
//	running/postcopy                       incoming   postcopy          none
//	running/postcopy-failed                incoming   postcopy-paused   none
//	paused, any reason                     incoming   incoming          Discard
//	paused/migration                       none       migrated          ResumeGuest, Release
//	paused/migration                       outgoing   migrated          those of the connection that holds the job
//	paused/postcopy                        outgoing   postcopy          none
//	paused/postcopy-failed                 outgoing   postcopy-paused   Release
//	paused/crashed, crashed                any        crashed           none
//	paused, any other reason               none       paused            ResumeGuest
//	shut off                               -          stopped           Release (drops the definition), Discard (nothing)
//
// paused/migration with a job is also what a source looks like in the last moments of Perform, after which it may still
// run again; so a coordinator waits until the job is over before it concludes anything. libvirt does not tell of the
// job at a destination; it refuses the question, and that refusal is how "incoming" is known.
//
// # What go-libvirt does not do, and what is done about it
//
//   - It has no contexts: each call runs in a goroutine of its own, which outlives its caller's patience and ends with
//     the answer or the connection. Close waits for all of them.
//   - It trusts the length of a packet; wire refuses one below a header or above libvirt's own limit.
//   - It loses events between registration and subscription, passes everybody's on, cannot decode JOB_COMPLETED, and
//     stops the connection when a subscription ends while events flow. Its subscriptions are not used: events are taken
//     off the wire before it sees them. The figures of an ended job are asked for.
//   - It answers no keepalives and sends none; pulse does both.
//   - It skips SASL in silence; the daemon is asked first, and SASL refused with a way out.
//   - It decodes lists with the length that the peer gives. A panic of its decoder ends the connection; a hostile daemon
//     can still make it allocate. The daemon is trusted that much: it has the guest.
//
// libvirt 11.2 and 11.3 crash when asked to recover a post-copy as its destination (fixed in 11.4.0). CanResume and
// Prepare refuse there; the guest keeps running on what RAM it has, and recovery works once libvirt is updated.
//
// # Who owns what
//
// A Host owns its connection, the ssh process under it, and one goroutine for each call, each Watch and the keepalives;
// Close ends and joins them. The channel of a Watch is closed by this package alone. Closing a Host in the middle of a
// migration is, to libvirt, the death of the client.
//
// # What it is not
//
// It has no SASL, no RDMA, no tunnelled migration, and no driver but QEMU's. It starts no session daemon. It never sends
// a command to QEMU past libvirt of its own accord, so that no domain is tainted by it, but through Monitor, which others
// ask for; which of QEMU's states a migration is in is known from events, and from libvirt's figures only as far as they
// tell.
package libvirthost
