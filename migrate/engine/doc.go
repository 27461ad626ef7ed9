// Package engine is the one place where host drivers and the ways to move RAM meet. An engine opens a session between
// two hosts; the coordinator of package migrate calls the session's steps.
//
// # Native
//
// Native lets QEMU move its own RAM: we decide, watch and recover.
//
//	step      source                    destination               decided by
//	Prepare   Begin                     Prepare (QEMU waits)
//	Copy      Perform ─────RAM, disks──▶                          Pilot: longer pause, post-copy
//	          guest stands still
//	(commit, by the coordinator; in post-copy by the session before the switch is asked for)
//	Resume    Switch                    Finish: guest runs
//	Page      ◀────page requests──────                            Stall: no byte for a while = paused
//	Recover   Begin … Perform with Resume: the same five phases over a new link
//	Finish    Confirm: source released
//
// Images that the destination lacks are made by its agent in Prepare, before its QEMU is started (images.go), and written to
// the journal, from which the coordinator removes them if the guest does not land.
//
// # NBD
//
// NBD has agents move the RAM, and QEMU its devices only. To the drivers it is a pre-copy of a guest without RAM. One
// migration in time; what the agents say to each other is on a line of its own:
//
//	step     source's driver  source's agent        coordinator      destination's agent  destination's driver
//	Prepare  Begin                                                                        Prepare (QEMU waits)
//	                                                OpenDest ──────▶ listens
//	                          arms the tracker ◀─── OpenSource
//	                          ═══ dials: bulk, demand and stream connections ═══▶
//	Copy     shared RAM left
//	         out of stream
//	                          harvest ◀──────────── precopy.Rounds ▶ fetch               guest runs at the source
//	                          ◀══════════ NBD reads ═════════════════ into RAM's files
//	         ----------------------------- commit: from here on a dead coordinator has both ends asked -------------
//	         Perform ───────▶ StreamUp: the stream is there
//	                          ══════════ stream ════════════════════▶ Pass: up to the destination's acknowledgement
//	         guest stands still, its devices are drained                                 Finish, if it can wait
//	                          last harvest ◀─────── Rounds.Final
//	                          ◀══════════ NBD reads ═════════════════ precopy: the last pages
//	                                                Switch ─────────▶ else: punch what is left, serve its faults
//	         completes ◀═══════════ "all has arrived", said by the agent before it has ═══ and holds the stream
//	         Switch                                 sentOut
//	         ----------------------------- gate: from here on nothing is taken back by us ---------------------------
//	                                                Release ────────▶ the stream passes    Finish: guest runs
//	Page                      harvest: late writes?
//	                          ◀══ demand, bulk: NBD reads ═══════════ Page: faults first, then the prepager
//	Finish                                          Close ──────────▶ leaves QEMU, unless pages are missing
//	         Confirm                                Close: leaves QEMU
//
// What fails
//
//	before the commit       Copy returns the error; Undo has both agents leave, removes the destination, the source runs on
//	commit to gate          the same, by takeBack: the stream never ends, so that nothing can run at the destination; the
//	                        source's job is cancelled. Both ends say so when the coordinator asks them, as it does after
//	                        every failure behind a commit
//	the source's QEMU       completes before the gate opens. One that waited for the destination's own answer would run its
//	                        guest again if that answer, or the link, were lost, though the destination may run it
//	Release, device state   they may have arrived: nothing is resumed before both ends were asked
//	loading: an agent dies  QEMU may wait for a page, and is silent; Resume has new agents bring it what it lacks. It runs the
//	                        guest then, or ends, if its stream was cut off
//	a harvest               all pages count as dirty; pre-copy fails at the last one, since all would have to go in the pause
//	an agent that is silent each call has a limit, and a fetch has to move something (nbd_bounds.go): then it counts as lost, and
//	                        earlier if it answers nothing else, either
//	paging: link            the guest waits; agents dial again by themselves, Page goes on where it was
//	paging: an agent dies   the guest waits; Recover has new agents take up what they find: holes of the RAM's files are
//	                        missing, the userfaultfd is still in QEMU
//	paging: we die          agents go on until all RAM is there; the next coordinator's Recover joins them
//	the source's host dies  what is missing is lost, and the guest with it: so it is with every post-copy
//
// # Disks
//
// Drivers copy disks within Perform, unless agents do: over data connections of their own, with ends that know nothing of RAM
// (package worker/disks). Two ways, each a part of a session:
//
//	later     (CopyAfter, both engines) the guest goes first. Its new QEMU waits on empty overlays; below each is an export of
//	          the destination's agent. Once the source's QEMU has let go of its images (thaw) reads are answered and the rest
//	          is fetched into a cache; then the driver folds overlay and export into the final image, and the guest needs
//	          nobody any more. To the machine this is paging: until the journal says that it ended the source is not released.
//	mirrored  (Reuse, engine nbd) the source's QEMU mirrors new writes only, while the destination's agent brings the image in
//	          line by checksums. Before the commit the mirror is made write-blocking, so that both are the same when the guest
//	          stops; the agent lets go of the image (settle) before the gate opens, so that no two write it.
//
//	          source's QEMU ── new writes ──▶ agent ═══════════════▶ agent ──▶ image        mirrored
//	          source's image ◀── reads ────── agent ◀═ sums, data ══ agent ──▶ image
//	          source's image ◀── reads ────── agent ◀═ NBD reads ═══ agent ◀── reads ── overlay ◀── guest      later
//
// While the source is frozen its agent holds QEMU's locks on the images: nobody can run the guest there. Yield gives them back
// before a guest that did not land is run at the source again.
//
// # Exports
//
// OpenExports has an agent serve the RAM of a guest that stays where it is to NBD clients: no driver is asked for anything
// but where the RAM is, and no session is opened.
//
// # Owning
//
// Pilot and Stall are pure and tested by traces; the session only carries out what they say. A session owns two event
// watchers, at most one goroutine each for Perform and Finish, and the connections to its agents; Close waits for all of
// them, and changes nothing on either host. It never resumes the source once the destination may run: what to do then is
// the coordinator's decision, from both ends' answers. Rounds, trackers and pagers are packages of their own (precopy,
// postcopy); package worker joins them on a host.
package engine
