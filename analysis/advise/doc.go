// Package advise says when to start a migration, which way, and why in one sentence.
//
//	Request{now, deadline, guest, link, curve, cycles, ways} ──► Policy ──► Advice{start, way, cost, reason}
//	                                                               ▲           │ while waiting
//	                                                               └── Renew ◄─┘ does the guest do what was expected?
//
// Cycle is the policy to use: it plays a migration through at the starts up to the deadline, in every way that is allowed, and
// waits only where that is expected to save more than a threshold and what is not certain of it. Without a cycle it says now. The
// others are there to be compared with it, by Simulate. The deadline is hard: a migration that waits would end before it by the high
// end of its forecast, else it starts now.
//
// All of it is pure: time comes in as values, and chance as a seed. A Policy may be used by several goroutines at once.
package advise
