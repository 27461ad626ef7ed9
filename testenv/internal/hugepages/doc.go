// Package hugepages borrows huge pages of 2 MiB from the machine for a lab, and
// gives them back.
//
// The machine has one pool (nr_hugepages), which others use too and which outlives
// every process. So what a [Ledger] borrows it writes into a file of the lab before
// it touches the pool, and it only ever adds to the pool and takes the same number
// away again: pages that were there before stay there. Whoever finds the file of a
// lab that was killed returns what it says.
//
//	record: held 0, moving 10→266     written first
//	pool:   10 → 266
//	record: held 256                  written last
//
// A record that says "moving" was left by a process that died in between; how far
// the pool is from where it stood tells what of the move was done.
//
// All ledgers of the machine take turns, by a lock on the machine's /var/tmp. The
// package starts nothing and keeps nothing open.
package hugepages
