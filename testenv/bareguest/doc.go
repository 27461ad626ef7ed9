// Package bareguest is a guest without an operating system, for tests that want
// a running machine in milliseconds: a few hundred bytes that QEMU starts in
// place of a firmware (-bios), under TCG and under KVM alike. It increments a
// word at the beginning and a word at the end of each page of a range, page
// after page, round and round, at a rate.
//
//	0x00000  …
//	0x08000  status page: what it does, how far it is (type State)
//	0x100000 Config.Start ┐
//	         page page …  │ first word and last word: how many passes were here
//	         Config.End   ┘
//	top of 4 GiB: the 64 KiB image; the processor begins at its last 16 bytes
//
// The rule that CheckRAM holds it to: with the guest stopped, every page before
// the cursor has one pass more than every page behind it, both words of a page
// are alike but for the page at the cursor, and the pass counter in the status
// page agrees. A page that a migration lost, tore or left stale breaks it, and
// breaks it for good: the guest adds to what it finds.
//
// The guest writes "A" on its first serial port when it starts and a "B" each
// Config.Report passes. It touches no disk and no network, takes no interrupt
// and does not survive a reset of the machine, after which its counter starts
// anew over pages that do not.
//
// The image is assembled here by Go code, instruction by instruction, with its
// listing beside it (program.go). The package starts no QEMU and owns nothing:
// the caller keeps the image in a file and passes Args.
package bareguest
