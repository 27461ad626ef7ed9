// Package sys is the one package with raw system calls and unsafe: each call typed, each with its errors explained.
//
//	UserFault, Event, Wait, Waker    a userfaultfd: faults of a process's memory are reported here and answered from here
//	InjectUserFault, InjectSyscall   one system call inside another process, by ptrace
//	AdoptUserFaults                  copies of the userfaultfds that another process holds
//	Pagemap                          which pages were written, and protecting them again (PAGEMAP_SCAN)
//	Maps, OpenMapped                 the mappings of a process and the files behind them
//	Memfd, MapShared, PunchHole,
//	DataExtents, PageSize            files that RAM is made of
//	InNetns                          runs a function in another network namespace, on a thread that is thrown away afterwards
//	OpenInRoot                       opens a file as a process with another root directory would see it
//	PeerOf                           tells which process listens behind a connected unix socket
//	Probe…                           whether this process may do such a thing: present, absent or could not tell
//
// # Whose memory
//
// A userfaultfd watches the memory of the process in which it was created, wherever its descriptor goes. So it is
// created inside the process whose memory is to be watched, and its descriptor is copied here:
//
//	our process                              the guest's QEMU
//	InjectUserFault ---- ptrace, one thread --> userfaultfd()   stays open there as remoteFD
//	      |        <--- pidfd_getfd -----------      |
//	UserFault.Read <--- a thread faults --------- its RAM
//	UserFault.Copy ---- a page ----------------->
//
// The process that serves a userfaultfd must never touch the memory that it watches: the thread would wait for itself,
// and with it, at the next garbage collection, the whole program. Read and write the file behind the memory instead.
//
// # Who owns what, and what stays after a failure
//
// Nothing here keeps state or goroutines. What a function opens it closes, unless it returns it; then the caller closes.
// A probe tries the real call and gives back what it got at once.
//
// A UserFault is one descriptor of possibly several. When the last one is closed the kernel unregisters all, and threads
// that wait find zeros: so the copy inside the watched process is left there until all its pages have come. An injection
// puts the thread's registers and signal mask back and lets it go on every path. Only if our process is killed within
// the fraction of a millisecond in which the thread has our registers does it go on with them, and its process crashes;
// there is no way to ask the kernel for anything else.
//
// On systems other than Linux every function fails with ErrNotLinux, so that the packages above still build. System
// calls are injected on amd64 and arm64.
package sys
