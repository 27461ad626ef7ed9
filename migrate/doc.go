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
//	paging       -       runs    post-copy: what RAM is left is fetched     destination waits, link is made anew
//	finishing    gone    runs    source released, report written            only the report is late
//
// At every instant at most one side may run the guest, and Owner says which. When the answer to the switch is lost the
// owner is unknown and nobody is resumed before both ends were asked.
//
//	           decides                 acts
//	Coordinator ── Machine (pure)        Session (an Engine's) ── Source, Destination (host drivers)
//	     │
//	  Journal (written before each step that cannot be undone), Report, Progress
//
// The hypervisors are reached through the interfaces of host.go, which the drivers migrate/libvirthost and
// migrate/qemuhost implement; the way RAM is moved is an Engine, implemented in migrate/engine. This package imports
// neither.
//
// Nothing here starts a goroutine that outlives the call that started it. Errors are *OpError: phase, step, side, cause
// and fix.
package migrate
