// Package engine is the one place where host drivers and the ways to move RAM meet. An engine opens a session between
// two hosts; the coordinator of package migrate calls the session's steps.
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
// Pilot and Stall are pure and tested by traces; the session only carries out what they say. A session owns two event
// watchers and at most one goroutine each for Perform and Finish; Close waits for all of them. It never resumes the
// source after it asked for the commit: what to do then is the coordinator's decision, from both ends' answers.
package engine
