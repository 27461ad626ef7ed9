// Package workload names what a lab guest does with its memory and its disk,
// and plans it: which page or block to write next, and when.
//
// A workload is written as a kind and its parameters:
//
//	KIND[:key=value[,key=value…]]
//
//	kind        writes                             keys and defaults
//	idle        nothing                            size=128MiB
//	uniform     any page, evenly                   size=128MiB rate=5000
//	hotset      a few pages most of the time       size=128MiB rate=5000 hot=0.1 bias=0.9
//	sequential  page after page, round and round   size=128MiB rate=5000
//	cycle       phases, each evenly, repeated      size=128MiB rate=5000 phases=5000@10s/0@10s hot=1
//	blockio     disk blocks, evenly                size=128MiB rate=200
//	mixed       a hot set and disk blocks          size=128MiB rate=5000 hot=0.1 bias=0.9 writes=50
//
//	size    bytes written to, "134217728", "128MiB", "1GiB"; whole pages. For blockio it is
//	        a length of each of its disks, from the beginning; of a shorter one all is used.
//	rate    pages a second (blockio: blocks a second), a whole number, or "max".
//	hot     the share of the pages, from the first on, that is the hot set: over 0, at most 1.
//	        In a cycle: the share of the region that the phases write to.
//	bias    the share of the writes that goes to the hot set: 0 to 1.
//	writes  blocks a second beside the pages.
//	phases  RATE@LENGTH, separated by "/"; lengths as Go writes them (10s, 500ms). Without
//	        it a cycle is busy at rate for ten seconds and quiet for ten.
//
// The guest writes one thing at a time, pages and blocks in turn: a block that
// waits for the disk holds the pages up. So a mixed workload keeps its rate of
// pages only while its writes do not fill the disk's time.
//
// Parse reads that form and Spec.String writes it back.
//
// A Plan is pure: it holds no clock, starts nothing and owns no memory but
// itself. Its caller says how long the guest has run and gets the writes that
// are due. Time that jumps (a pause, a migration) never causes a storm: at
// most maxBurst worth of writes is ever owed. The same seed gives the same
// writes in the same order. A Plan belongs to one goroutine.
//
// The package does not write anything and does not check anything; that is
// package oracle.
package workload
