// Package qemuhost is the host driver for a bare QEMU: one process behind one QMP socket, without libvirt.
//
// The URI is qemu+qmp:///path/to/qmp.sock, with ?tls-dir=/path for certificates elsewhere than in /etc/pki/qemu. It
// means one QEMU, hence one guest; a name must be what QEMU's -name says, or the UUID, or "-" for "the one that is
// there". A source is a QEMU with a guest. A destination is a QEMU that its owner started with the same options and
// -incoming defer; this package starts no processes.
//
//	            source                                        destination
//	Begin       describe, refuse what cannot move
//	Prepare                                                   compare, stop, credentials, capabilities, parameters,
//	                                                          NBD server and exports, sign "waiting", migrate-incoming
//	Perform     credentials, capabilities, parameters,
//	            blockdev-add + blockdev-mirror, all ready,
//	            migrate, pre-switchover [STOP],
//	            mirrors ended exactly, link still good?
//	--------------------------------------------------- commit
//	Switch      migrate-continue, completed or postcopy-active
//	Finish                                                    arrived, nbd-server-stop, sign away, cont [RESUME],
//	                                                          post-copy: last page; restore settings
//	Confirm     completed: quit
//
// # Who runs the guest
//
// Only Finish sends the destination cont. QEMU would run a guest by itself as soon as it has arrived; Prepare's stop, sent
// while QEMU waits, takes that back. So a source that fails in its switch and resumes by itself never meets a second
// runner, and Switch can tell ErrNotLanded for certain. A guest that a user had paused stays paused at the destination.
//
// Confirm(true) and Release quit the source's QEMU, whatever Params.UndefineSource says: a bare QEMU has no definition,
// and a process that holds a whole guest and would run it on cont must not stay behind. Both do so only when QEMU says
// that everything is sent. Finish(false) and Discard quit the destination's QEMU: QEMU takes in one migration in
// its life, so nothing is lost that its owner could use. They do it only while the guest waits to come in, or if the
// sign is there that Prepare left in QEMU (an object called vmmigrate-waiting), which Finish removes before cont.
//
// # Post-copy
//
// In QEMU 10 pause-before-switchover holds for a post-copy too: after migrate-start-postcopy the source stops the guest and
// stands at pre-switchover, where migrate_cancel still works. So StartPostcopy is no point of no return here; Switch
// is. multifd with post-copy is refused below QEMU 10.1.
//
// QEMU 10.0 has a trap there. If the link is lost at pre-switchover and migrate-continue follows, the migration thread
// ends without leaving the state "device", and neither cont nor migrate_cancel works any more. QEMU notes the loss in
// error-desc, so Perform and Switch look there last thing before migrate-continue. If the link breaks in the moment that
// is left, the guest is freed through QEMU's gdb stub (rescue.go); only the process cannot migrate again.
//
// A link that breaks later leaves both ends in postcopy-paused. The same calls with Params.Resume recover it: Begin
// checks that the source is paused, Prepare makes the destination notice and listen anew, Perform reconnects.
//
// # RAM that somebody else moves
//
// With Params.SharedRAM both QEMUs leave RAM in shared files out of their stream (x-ignore-shared, which is put back like
// every other setting); without it the capability is switched off, lest a guest arrive without its RAM. Who moves the RAM
// does so until Switch, where the guest stands still: the destination reads RAM as soon as it loads the device state.
// A Ticket's URI may be replaced on its way, so that the stream passes through other hands.
//
// # Addresses
//
// With neither MigrateURI nor ListenAddress both QEMUs are taken to be on this machine, as their sockets are, and the
// destination listens on 127.0.0.1 alone, on a port of the kernel's choice. With a MigrateURI it listens on
// ListenAddress or on all addresses, and the source is told the MigrateURI with the real port. Disks go to the same
// host, on DisksPort or the first free port from 49152 on, or to DisksURI.
//
// # States
//
//	QEMU's run state             its migration                      migrate.RunState
//	running                      none or over                       running
//	running                      postcopy-active                    postcopy
//	running                      postcopy-paused, -recover…         postcopy-paused
//	inmigrate                    any                                incoming
//	finish-migrate               before the switch                  paused
//	finish-migrate               postcopy-active (a source)         postcopy
//	finish-migrate               postcopy-paused, -recover…         postcopy-paused
//	finish-migrate               completed                          migrated
//	postmigrate                  any                                migrated
//	shutdown                     any                                stopped
//	internal-error, panicked     any                                crashed
//	all others                   any                                paused
//	(quit by us)                                                    ErrNoDomain
//
// Dial fails with ErrNoDomain if nobody listens at the socket and no process of this machine was started with its path:
// then there is no QEMU, hence no guest. A socket that is only out of reach is ErrLinkLost.
//
// # Failure, ownership and limits
//
// Prepare and Perform take back what they made when they fail, settings included, within Options.Grace. What a dead
// coordinator left is found by its names, which begin with vmmigrate-, so Cancel and ResumeGuest tidy up after any
// process. Settings to restore travel in the Offer and the Ticket; a Cancel from another process has neither and sets what
// this driver sets back to QEMU's defaults. After a recovery that another process began the settings stay.
//
// A Host owns one QMP connection and the goroutines of its Watch calls; Close ends and joins them and leaves QEMU alone.
// A QMP socket serves one client at a time: give QEMU a second -qmp to look at it beside a running migration. A lost
// connection is ErrLinkLost and final for this Host: dial again.
//
// Not done: starting QEMU, RDMA, file and exec migrations, COLO, CPR, zero-copy, disks that are opened by two QEMUs
// without image locks, and a check that the CPU's features are alike beyond its model.
package qemuhost
