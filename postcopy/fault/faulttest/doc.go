// Package faulttest has a source of faults without a kernel: memory of which pages are missing, threads that touch them
// and wait, and the answers that the kernel gives, its refusals included. It is for tests.
//
//	Memory.Touch ──> message ──> Read        Copy, ZeroPage ──> page ──> Touch returns what it holds
//	Memory.Discard ──> event ──> Read        (EAGAIN for placements, from the event to its reading)
//
// Memory holds pages by address and owns no goroutine. Who touches a page waits in its own one, until the page is there
// or its context ends. It does not model write-protection, remaps or unmaps.
package faulttest
