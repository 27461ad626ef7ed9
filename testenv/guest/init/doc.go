// Command init is the only program of the lab's guest: its PID 1, started by
// the kernel from an initramfs that package guest makes. It is of no use
// anywhere else.
//
//	mount, load modules, configure the network card
//	 ├─ server    answers pings and calls (package oracle); from here on the lab sees it
//	 ├─ keeper    set up: region filled, disk opened with O_DIRECT
//	 ├─ runner    writes what the workload plans, on a thread of low priority
//	 ├─ ticker    one tick each oracle.TickPeriod of running time
//	 └─ power     the ACPI power button
//
// What goes wrong while it is being set up is printed on the console and
// returned to every call, and the guest stays up: it never exits, since a
// kernel whose PID 1 is gone stops without a word to the lab. It keeps no
// deadline by the wall clock and owes no time that it did not run, so that it
// can be paused, moved and continued at any instant.
package main
