// Package precopy copies the RAM of a running guest in rounds, and decides when to stop copying and switch.
//
//	Harvester ── pages written since ──>┌────────┐── pages to bring over ──> Fetcher
//	(a tracker, at the source)          │ Rounds │                           (the destination's client)
//	                                    │        │── figures ──> Decider ── another round, switch, no progress
//	                                    └────────┘                          (pure: the same figures, the same words)
//
// A page is left if it may differ from what the destination has: never fetched, or written after the harvest that came
// before its last fetch. Rounds keeps that set, and nothing else decides what is missing after the switch:
//
//	left = what the first harvest gave (every page that is no hole)
//	each slice of a round:  fetch pages out of left;  left = left - fetched + harvest
//
// A harvest that fails leaves every page of the guest in it. So does a page that was on its way when a fetch failed.
//
// Order. Pages that were not written lately go first, pages written in the last two rounds or more (volatile) go last,
// or not at all: hybrid leaves them for after the switch, where they go once. A round is cut into slices of about a
// second with a harvest between them; a page that was written while it waited for its slice waits for the next round,
// since it would have gone twice. Both are Clark et al., Live Migration of Virtual Machines, NSDI 2005: §4 (writable
// working sets) and §5.4 (rapid page dirtying).
//
// The package starts no goroutine, owns no memory but its sets (a byte and a few bits for each page), no descriptor, and
// speaks to nobody but its Harvester and its Fetcher. When Run fails, the sets are as the last call left them, on the
// safe side, and Run may be called again: it goes on where it was.
//
// It does not stop the guest, and it does not move what is left: whoever does both calls Final in between, with the
// guest at a standstill. It caps no bandwidth; that is the Fetcher's, and the Decider goes by what it measures.
package precopy
