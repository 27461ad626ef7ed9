// Package domain writes the libvirt domain of a lab guest.
//
// A guest is a q35 machine with a kernel that QEMU boots directly, virtio disks,
// one virtio network card on the host's guest bridge, a serial console that goes to
// a file, and nothing else: no graphics, no USB, no balloon, no option ROM. What is
// left out is neither booted nor migrated.
//
// Everything that a domain names is at the same place on every host, so that the
// domain can move without being rewritten.
//
// The package is pure: a Spec in, XML out.
package domain
