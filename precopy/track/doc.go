// Package track tells which pages of a running process were written: three trackers behind one interface.
//
//	uffd-wp     the kernel write-protects the pages and notes who is written (userfaultfd WP_ASYNC, PAGEMAP_SCAN, kernel
//	            6.7). Reading and re-arming are one step. It sees every write through the process's own page tables, those
//	            of the kernel and of KVM too. Costs one soft fault for each page written.
//	soft-dirty  the same by /proc/PID/clear_refs (CONFIG_MEM_SOFT_DIRTY), for kernels before 6.7. Reading and clearing are
//	            two steps, between which every thread of the process is held: some milliseconds for a GiB. Not for huge
//	            pages; and where the machine swaps, everything counts as written.
//	hash        compares each page with what was last sent of it. Needs nothing of the kernel, reads all RAM at each
//	            harvest, and has to be told what is sent (Witness).
//
// A page that was thrown away (punched out of its file) and then read, but not written, between two harvests is zeros and
// is not told by uffd-wp: the kernel keeps it protected. A guest gives away only pages of which it does not care what they
// hold until it writes them, so its copy may keep what was there.
//
// None sees a write through another process's mapping of the same file, or by a device (vhost-user, virtiofs, VFIO), but
// hash, which sees the former: who opens a tracker makes sure that there are none.
//
//	Harvest: 1st  every page that is no hole (arming comes first, so nothing falls between)
//	         nth  every page written since the one before, and every page that became a hole since (a kernel may not
//	              tell of a huge page that was thrown away, and a hole reads as zeros)
//	         failed: every page, and why
//
// A tracker belongs to one process, and what it does goes to the address space that this process had when it was opened.
// When the process ends or replaces its memory, harvests fail. Once a harvest has failed the next one may succeed; it then
// tells at least what was written since the failed one.
//
// Ownership: a tracker starts no goroutine. uffd-wp keeps a userfaultfd here and, by the same number, one in the process;
// Close takes both away, and the process then runs as if it had never been watched. If we die first, the one in the process
// stays and the kernel resolves its faults by itself: nothing waits. The files of the regions stay the caller's and have to
// stay open until Close. Methods may be called from several goroutines; they take turns.
package track
