// Package oracle is how a lab guest proves that a migration took nothing from
// it: every page, every disk block and every tick is as the guest left it.
//
// There are three parties, because no single one can see every error:
//
//	            guest (PID 1)                              outside (lab, tests)
//	┌──────────────────────────────────────┐       ┌──────────────────────────────┐
//	│ region   pages that describe         │       │ Client   Verify, Stats,      │
//	│          themselves                  │ calls │          SetWorkload         │
//	│ ledger   expected versions, a tree   │◄──────┤                              │
//	│ seal     counters and a hash chain,  │       │ Witness  a ping every few ms │
//	│          kept twice                  │ pings │          remembers the       │
//	│ disk     blocks that describe        │◄──────┤          highest seal        │
//	│          themselves, and a ledger    │       └──────────────────────────────┘
//	│ Keeper   owns all of it              │
//	└──────────────────────────────────────┘
//
// A page (and a disk block) is a record: kind, index, version, write number,
// incarnation and chain, a fill that differs in every word from one version to
// the next, and a checksum over the whole. So a torn page, a page of zeros and
// a page in the wrong place show by themselves. A stale page is a good record
// of an older version: the ledger, elsewhere in memory, knows the version that
// should be there. A page of the ledger can be stale as well: its generation
// is an entry in the level above it, and so on up to one page, whose
// generation is the number of writes in the seal. The seal is kept in a page
// and in a variable; a guest in which both are stale has gone back in time,
// and only somebody outside can know: each answer on the network carries the
// seal, and the Witness holds the guest to it.
//
//	error                        found by             kind
//	page lost (zeros)            guest                LostPage
//	page stale                   guest                StalePage
//	page torn, page misplaced    guest                TornPage, MisplacedPage
//	ledger page stale or torn    guest                StaleTable, TornTable
//	one copy of the seal stale   guest                StaleSeal
//	disk write lost, torn …      guest (O_DIRECT)     LostWrite, TornBlock, MisplacedBlock
//	page or block too new        guest                FuturePage, FutureBlock
//	guest back in time           witness, Judge       WentBack, ReplayedTick
//	two guests at once           witness              TwoGuests
//	guest restarted              witness, Judge       Rebooted
//	clock back, wall clock jump  guest                ClockBack, ClockJump
//	timers dead                  Client.Ticks         NoTicks
//
// A page is checked before it is overwritten, too, and a block is read back
// before it is: the workload cannot paper over an error, and what was found
// stays found. Elapsed time alone is never an error: a guest that was paused
// for an hour has had no ticks for an hour and is well.
//
// # The wire
//
// One UDP datagram is one message, at most MaxMessage bytes. See wire.go for
// the layout. Every call has an id chosen by the client; the guest runs a call
// once and keeps the last results, so that a client may repeat a datagram as
// often as it likes. Version 1 talks to version 1 only.
//
// # Ownership
//
// The Keeper owns the region, the ledgers and the disk it was given; its
// methods may be called from any goroutine. Serve and Runner.Run block until
// their context ends and join what they started. A Client is one socket and no
// goroutine; a Witness is one socket and two goroutines, which Stop joins.
//
// The package does not boot guests (package guest does), does not decide which
// page is written next (package workload does), and does not defend against a
// guest that lies.
package oracle
