// Package bench measures migrations in the lab, ours beside QEMU's own, and says
// which of the project's bars they reach.
//
//	scenario file ─► Measure ─► lab: two hosts, a guest, links
//	                   │       for each repetition, workload and link, in an order of chance:
//	                   │         vmmigrate migrate … --engine … --strategy …   there, and back
//	                   │         witness: silence and speed as a client sees them
//	                   │         links: bytes as the network counts them
//	                   │         oracle: is the guest whole?
//	                   ▼
//	               Report ─► JSON (vmmigrate.bench/v1), Text, Page (HTML), Bars
//
// Migrations are made by running the vmmigrate program, since what is measured must
// not build what measures it; its report is one source of figures, and the others
// are from outside. Rows of one scenario share the guest, the lab and the minutes:
// each repetition runs every row once, in an order drawn from the seed, so that what
// drifts on the machine drifts for all of them.
//
// A run that fails is a result: it stays in the report with its reason, counts in no
// median, and a guest that it lost is started anew for the next one. Figures that
// are not known are absent, never zero.
//
// Where a scenario has its guest watched, the program forecasts each run before it begins, and
// keeps that in its report: the text holds it against what came. Rows that begin as advised are
// held against rows that begin at random.
//
// # Ownership
//
// [Measure] brings the lab up and takes it down, also when it fails or its context ends;
// nothing else here holds processes or goroutines. Scenario, Report and what is made
// of them are values.
//
// # What it is not
//
// It does not compare machines: hosts of a lab share processors, and the figures of
// one run mean something only beside each other. It does not benchmark single
// functions; [Report.AddMicro] takes in what "go test -bench" printed about those.
package bench
