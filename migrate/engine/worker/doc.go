// Package worker is what an agent does on its host: it joins tracker, NBD server and client, sink and pager for one guest.
//
//	source: QEMU's RAM files ── NBD server ── data connections (dialled by us)
//	        tracker (userfaultfd in QEMU)      stream: unix socket of the source's QEMU ── stream connection
//	destination: data connections ── NBD client ── intake (before the switch: pwrite) ──> QEMU's RAM files
//	                                            └─ pager (after it: userfaultfd in QEMU)
//	             stream connection ── gate ── unix socket of the waiting QEMU
//	exports: QEMU's RAM files, /proc/PID/mem ── NBD server ── connections that the coordinator carries
//	         tracker, if it is asked for ── dirty bitmap: all that was written since
//
// # Owning and ending
//
// A Worker owns what it opened for a guest: files, the userfaultfd's descriptors (one copy stays in QEMU, so that a crash
// of ours makes the guest wait and loses nothing), connections, a lock that only one agent of a host has for a QEMU and
// side. Close of a Source or Dest gives all of it back and waits for its goroutines. Close of the Worker does so too, but
// waits first until a guest that is being paged in has all of its RAM.
//
// # Half-failure
//
// A destination's end that is gone leaves holes in the RAM's files where pages are missing, and the guest waiting on them.
// An end that is opened with Resume takes over from there: it finds the userfaultfd in QEMU, takes every hole for missing,
// wakes all that wait, and goes on. Zero pages are fetched again then, which costs a reply without contents each.
//
// A page that the guest gave back while it was paged in (balloon, free page reporting, virtio-mem) is a hole, too. The agent that
// saw it come knows that it is zeros; one that takes over does not, and brings back what it held at the source when the guest left
// there. A page that the guest uses again meanwhile is no hole and is never written over: the kernel refuses to place a page
// where one is. What a page holds that was given back is undefined by virtio, but for one case: a guest that reports free pages and
// was started with init_on_free=1 takes them for zeros. check warns of free page reporting.
//
// # What it does not do
//
// Exports are not for a guest of which pages are missing: its files show zeros there. With a tracker they make room for a
// migration that begins, by ending.
//
// It does not decide: rounds, the moment of the switch and all that the drivers do belong to the coordinator.
package worker
