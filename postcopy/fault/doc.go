// Package fault is where the faults of post-copy come from: one userfaultfd, seen as a Source that a pager reads and
// answers.
//
//	guest thread ──touches a missing page──> kernel ──message──> Source.Read ──> pager
//	      ^                                                                         │
//	      └──────────── goes on ─── kernel <── Source.Copy, ZeroPage, Wake ─────────┘
//
// Arm asks a new userfaultfd for what is needed and registers ranges; New makes a Source of one that is armed, such as
// one that was made inside QEMU, or taken up from a process that died. The userfaultfd stays with who opened it; only
// that of a process that forked off (Child) belongs to its Source. A Source owns an eventfd besides, and no goroutine.
//
// It knows nothing of RAM blocks, and not which pages are missing. The memory that is registered must not be touched by
// the process that serves it: the thread would wait for itself.
//
// The test kit faulttest has a Source without a kernel.
package fault
