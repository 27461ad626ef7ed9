// Command tiers runs the test tiers and says what came of them.
//
//	go run ./internal/tools/tiers [flags] T0 T1 T2 T3 T4
//
// A tier is chosen by the names of the tests: those of T1 are called TestT1…,
// those of T4 TestT4…, and T0 is everything else, examples and the seeds of fuzz
// targets included. T0 runs all packages; a higher tier only those that have
// tests of it, one package at a time from T2 on, since those share the machine's
// network, QEMU and libvirt.
//
//	go list ──> packages of a tier ──> go test -json ──> events ──> tally ──> report
//	                                       └──> OUT/T3.json, every event as it came
//
// The output of a test is shown when it fails, and only then. The last line is
// always
//
//	N passed, N failed, N skipped
//
// counting tests and subtests, and is also left in OUT/summary.txt. A package
// that fails without a failing test (it did not build, it timed out, its
// TestMain failed) counts as one failure, and so does each test it left
// unfinished. The exit code is 0 only if something passed and nothing failed.
//
// The command owns the go process it starts, interrupts it when it is
// interrupted itself, and waits for it. Between tiers nothing is kept but the
// tally; a tier that could not be started counts as failed, and the next one runs.
package main
