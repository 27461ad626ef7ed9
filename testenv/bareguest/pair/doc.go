// Package pair starts two QEMUs for a test: a source that runs a bare guest, and a
// destination like it that waits for a migration (-incoming defer). Nothing is
// migrated here: that is for the code under test.
//
//	source                        destination
//	 ├ QMP, Socket                 ├ QMP, Socket      two monitors each
//	 ├ RAM file(s), share=on       ├ RAM file(s)      tmpfs, or huge pages
//	 └ bare guest, running         └ waiting
//
// Options choose the accelerator, processors (the guest uses the first, the others
// wait for ever), memory, its pages and how many RAM blocks it has. Which pages are
// whole at either end is told by bareguest.CheckRAM on [Machine.RAM], which reads
// the files and so sees the memory in the order in which the guest does, whatever
// the number of blocks.
//
// The test owns everything: both QEMUs are killed and all files are removed when it
// ends. Huge pages are borrowed from the machine and returned by then. A test that
// is killed leaves its QEMUs, its huge pages and folders in /dev/shm and the folder for
// temporary files; the latter the next pair removes.
package pair
