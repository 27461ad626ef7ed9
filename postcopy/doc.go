// Package postcopy fills the memory of a guest that runs already: the pager at the destination, what it asks the source
// with, and how it goes on after a lost link or a death.
//
//	QEMU's threads                       Pager                                 source
//	  touch a missing page ──> Source ──> reader ──> queue ──> demand workers ──> Demand  (a connection of its own)
//	                              ^         │ zeros at once          │
//	                              │         v                        v
//	                              └──── UFFDIO_ZEROPAGE, UFFDIO_COPY, wake
//	                              ^                                  ^
//	                              └──── bulk workers <── Prepager ───┘──────────> Bulk    (held back by Limiter)
//
// Every missing page is under way at most once, whoever asks for it first; a fault on a page that the bulk has under way
// waits for that. A fault on a page that is not missing is answered with zeros and without the network: it was zeros at
// the source, or the guest has discarded it since. Pages that are holes at the source are left holes here, unless
// somebody waits for them: they take no memory.
//
// Where Demand is a Direct, the reader asks and hears by itself: it waits for faults and for answers at once, so that no
// other thread has to be woken for a fault. What goes wrong on that way is left to the demand workers.
//
// While the guest faults, the bulk asks for no more at once than keeps the link busy: what is under way stands in the
// link's queues, and a demand fault waits behind it there. A process that runs a pager should have more of the
// scheduler's processors (GOMAXPROCS) than the machine has: one that is busy with bulk does not take up a fault at once.
//
// # Who owns what
//
// The memory is the guest's; the pager never touches it but by the userfaultfd, and the process that runs the pager must
// not either. The userfaultfd and the fetchers are the caller's. The pager owns one goroutine for each address space,
// from the first Run to Close, and the workers of a Run, which ends when they have ended. It owns the userfaultfds of
// processes that fork off while they are filled; their missing pages cannot be taken over by another pager.
//
// # When half of it fails
//
// Run returns nil only when nothing is missing, all is unregistered and the books add up. After any other end, what was
// missing is missing still, and threads that touch it wait: they never see wrong contents. A lost link (ErrLink) is
// mended by another Run, with other fetchers if need be (Use). Between Runs the reader goes on to answer zeros, and
// remembers who waits for the source. When the pager's process dies, a new one takes the userfaultfd that was left open
// in QEMU, takes every hole of the RAM's files for missing (MissingFromHoles), and wakes all threads, so that they
// fault again.
//
// Pages that are to become missing must not be punched while a pager runs: it takes a fault on them for a discard and
// places zeros. Close it first, punch, and make a new one, of what was missing and what is now.
//
// # Changes of the layout
//
// With Config.Events, a process may discard, remap and unmap its memory, and fork, while it is filled. The kernel lets
// it go on as soon as its event is read, so no page that was fetched before may be placed after that: who places holds a
// lock for reading from the look at the books to the note in them, and who reads events holds it for writing. EAGAIN
// means that there is an event to be read first, and so may ENOENT: it is asked again before it is believed. While no pager runs, a process that changes its layout waits for one.
//
// It decides no order of the bulk (package prepage) and opens no userfaultfd (package fault does, or sys). It makes no
// connection and does not try again by itself.
package postcopy
