// Package tracktest is the suite that every tracker passes: a child process with memory of all kinds is written to while
// it is harvested, and the copy that follows the harvests has to come out equal.
//
//	test ── commands, one a line (stdin) ──> child: maps memory, writes it, reads files into it, throws it away
//	     <── "ok …" or "error …" (stdout) ──
//	     ── /proc/CHILD/mem ── what is there
//
// The child is the test binary itself: TestMain calls Child first. A child ends when its stdin does, so it never outlives
// the test. Huge pages that a test needs are added to the machine's pool, and taken out at its end.
package tracktest
