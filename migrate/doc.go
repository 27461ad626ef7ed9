// Package migrate holds the vocabulary of a migration and the coordinator that drives one.
//
// A migration passes phases. Each has one way back, and after the commit there is none: the destination owns the guest.
//
//	phase        source  dest    what happens                               if it fails here
//	checking     runs    -       package migrate/check looks at both ends   nothing happened
//	preparing    runs    waits   the destination's QEMU is started          destination removed
//	copying      runs    waits   disks and RAM are moved                    destination removed
//	switching    paused  waits   the last pages and the device state        source resumes
//	------------------------------ commit: written to the journal before the destination may run
//	paging       -       runs    what RAM and disks are left is fetched     destination waits, link is made anew
//	finishing    gone    runs    source released, report written            only the report is late
//
// At every instant at most one side may run the guest, and Owner says which. When the answer to the switch is lost the
// owner is unknown and nobody is resumed before both ends were asked.
//
// # Who decides and who acts
//
//	           decides, purely                        acts
//	Coordinator ── Machine: input → actions           Session (an Engine's) ── Source, Destination (host drivers)
//	     │         Decide: both ends' answers → Plan   Custodian (host drivers), for what a dead coordinator left
//	     │         Estimator, Predict: figures → text
//	  Journal: one Record on the disk before each step
//
// The hypervisors are reached through the interfaces of host.go, which the drivers migrate/libvirthost and
// migrate/qemuhost implement; the way RAM is moved is an Engine (engine.go), implemented in migrate/engine. The journal
// is migrate/journal. This package imports none of them. Stand-ins for all of them are in migrate/migratetest.
//
// # Where RAM is moved
//
//	cmd/vmmigrate
//	   │  coordinator process                 source host                        destination host
//	   ▼                                      ───────────                        ────────────────
//	migrate ── Session ── migrate/engine      libvirtd or QMP                    libvirtd or QMP
//	                        │  │    └ drivers ──▶ QEMU                               QEMU
//	        native: QEMU ───┘  │                   │ RAM ── device state ── RAM ───────▶ │
//	        nbd: agents ───────┘ gRPC              │                                     │
//	                           │  (migrate/agent)  │ RAM's files                         │ RAM's files
//	                           ├────────────▶ agent: engine/worker  ◀═ data ═▶  agent: engine/worker ◀─┐
//	                           │               precopy/track, migrate/nbd        migrate/nbd, postcopy  │
//	                           └───────────────────────────────────────────────────────────────────────┘
//
// The layout, each importing only what is further right:
//
//	cmd ▶ migrate/engine ▶ migrate/engine/worker ▶ {migrate/engine/worker/disks, precopy, postcopy, migrate/agent} ▶ migrate ▶ {migrate/nbd, qmp} ▶ migrate/ram ▶ internal/sys
//	      migrate/engine ▶ {migrate/libvirthost, migrate/qemuhost, migrate/check, migrate/journal} ▶ migrate
//	cmd ▶ migrate/sampler (asks hosts what guests use) ▶ {migrate, analysis/sample}; analysis (when to migrate) imports nothing of this
//	      testenv (lab, guests, benchmark) is built from qmp and migrate/nbd, not from what it tests
//
// precopy and postcopy never import each other: they meet in migrate/engine and its worker. internal/arch holds the table
// of who may import whom, and a test that keeps it.
//
// # To read on
//
// vocabulary.go for the words, machine.go for what can happen, plan.go for what is done when an answer is
// missing, run.go for the loop that carries it out. testdata/machine/*.txt are whole conversations with the Machine, each
// failure at each phase among them; testdata/plans.txt is every decision there is.
//
// # Rules that hold
//
//   - The destination is not told to run before the commit is durable. An engine that has to pass the commit inside its
//     copy (QEMU's post-copy cannot be taken back once asked for; nbd wants no disk to wait for in the pause) asks for
//     it by Job.Commit.
//   - After the commit the source is resumed only when the destination answered for certain that it does not run the
//     guest, and was never seen to have run it. A destination that only waits is removed first: an order to run may
//     still be on its way to it.
//   - The source is released only when the destination runs the guest with all of its RAM. A definition that is all it
//     has left is removed then, too, if Params.UndefineSource asked for it.
//   - Where agents of ours fetch RAM or disks that were left behind, the destination's hypervisor says that the guest runs,
//     and does not know that it lacks any. Until the journal says that the paging ended (Record.Paged) a running destination means
//     Recover, never a release; and a source is not released unless that record is on the disk.
//   - A step back is believed when the source was seen to run the guest again, and not because a call returned.
//   - What cannot be decided safely is left to the operator (Choice), with what both ends say.
//
// # Cancelling, leaving, dying
//
// Before the commit a context that ends, a request to cancel (by any process, through the journal) and the time limit
// take the migration back, in bounded time of its own. After the commit a request is refused. A context that ends then
// stops the waiting where that harms nothing, while RAM is fetched: ErrDetached, and Recover attaches again.
//
// A broken link in paging is made anew, again and again with a growing pause, over new connections where the old ones are
// gone, until it works, the time for it is up, or the caller leaves: then the outcome is paused, and Recover goes on.
//
// A coordinator that is killed leaves its journal. Recover asks both ends, does the one step that is safe, and asks again
// until nothing is left to do. It also waits for what goes on without us: a daemon's peer-to-peer migration, or a
// post-copy under way.
//
// # What it does not do
//
// It cannot see a guest that ran at the destination and ended there within the moment between the order to run and the
// record of it, if the coordinator was killed in that very moment: an hour later (Limits.Stale) it leaves such a case to
// the operator, before that it resumes the source. It does not fence: a host that does not answer may be running the
// guest, and is taken to. It does not choose engines, strategies or moments.
//
// # Owning and ending
//
// Nothing here starts a goroutine that outlives the call that started it; of one run, the loop owns all state, and a step
// has a goroutine of its own that the loop waits for. Hosts that were handed in are the caller's to close, connections
// that the coordinator dialled are its own. Errors are *OpError: phase, step, side, owner, cause and fix; ExitCode sorts
// them.
//
// What scripts read, Report and Progress, has JSON schemas (ReportJSONSchema, ProgressJSONSchema). An absent field is not
// known; no figure is made up.
package migrate
