// Package sampler looks at running guests, one interval after the other, and gives what it sees to the analysis.
//
//	host driver: counters, for all guests at once ──► differences ──► CPU, disk writes, network   ┐
//	QEMU: distinct pages within a window ──► windows of 1, 2, 4 … 32 s in turn ──► dirty           ├──► Sample ──► store, terminal
//	or a Counter of ours: pages written ──► windows of 1, 2, 4 … 32 s, all at once ──► dirty       ┘
//
// Nothing is begun in a guest that is being migrated, and nothing of it counts: what a migration does to a guest is not the guest's
// workload. Who cannot be measured is asked less and less often. Run owns no goroutine but the caller's.
package sampler
