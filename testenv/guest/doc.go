// Package guest boots the lab's Linux guest: Debian's cloud kernel, an
// initramfs with one static Go program (package guest/init, its PID 1) and the
// four modules it needs.
//
//	Make (once, from the kernel's .deb)          Assets.Boot (each guest)
//	.deb ── dpkg-deb ─► vmlinuz ─► kernel ELF    Config ─► Boot{Kernel, Initrd, Cmdline}
//	                    modules ─┐
//	go build guest/init ─► init ─┴► initrd.cpio
//
// The assets are files in one directory, which Find looks for in this order:
// the directory named by VMMIGRATE_ASSETS; guest/ beside the running program;
// build/guest at the root of the module that the working directory is in.
// Nothing is installed: the package is unpacked and most of it thrown away.
//
// The kernel is kept as the ELF file inside vmlinuz, which QEMU starts by its
// PVH entry: an emulated processor would spend most of a second unpacking it.
// All that makes one guest different from the next is on the kernel command
// line, so that every guest shares the same three files, and two QEMUs that
// migrate a guest need nothing else in common.
//
// The guest owns its memory region, its disks (/dev/vda and so on, all of them) and its
// first network card, answers the oracle's protocol at UDP port oracle.Port of
// its address, and writes lines that begin with "vmmigrate-guest:" on its
// first serial port. It never exits; the oracle's PowerOff and the ACPI power
// button turn it off.
//
// The package starts a QEMU only in Accel, which ends it before returning. It
// does not know hosts, networks or libvirt.
package guest
