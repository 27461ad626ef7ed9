// Package prepage says which missing page of a guest to fetch next, before the guest asks for it. It is pure: no I/O, no
// clock, no goroutine, no chance. The same calls give the same answers, so that a recorded trace of faults can be
// played against any policy (package replay).
//
//	             Fault ───────────────┐            Placed, Discarded
//	missing ──> left ── Next ──> handed out ────────────────> done
//	              ^                   │                        ^
//	              └───── Return ──────┘     (also from left) ──┘
//
// One Policy keeps the books of one post-copy: every missing page is handed out exactly once, unless it is returned
// because the source did not send it. What the policies differ in, the order, only reads the books, so that no order can
// lose a page or give one twice. A demand fault takes its page past whatever is planned: nothing that is planned is
// thrown away for it, and so nothing has to be marked as not sent again.
//
//	none       nothing by itself: every page is a demand fault until Drain
//	linear     from the first page to the last
//	bubble     bands that grow in both directions around the pages that faulted last
//	bubble-up  the same, upwards only
//	stride     ahead of the faults, in the step that the majority of them makes; else bubble
//	hotset     what the source saw dirtied last, in turn with bubble, then bubble alone
//
// A bubble, four pages after the fault at P, with a band that was already there:
//
//	page   ...  P-3 P-2 P-1  P  P+1 P+2 ...
//	             .   4   2   f   1  [==]  3     f fault, 1-4 in turn, [==] not left and leapt over
//
// A migration has to end. With none, the pages that the guest does not touch stay at the source until Drain is called:
// whoever drives the policy decides when, by a time limit or because there was no fault for a while. Without it, the
// source can never be let go of. All other policies end by themselves.
//
// A lookup of the nearest page that is left takes as many steps as a tree of 64 branches has levels, whatever is between;
// so Fault and Next cost some 100 ns in blocks of any size. The memory is two bits for each page of the guest.
//
// The package owns nothing but its books. It does not fetch or place, does not know whether a page was placed, unless it
// is told so, and does not decide how many requests are under way. A Policy is not safe for use by several goroutines.
package prepage
