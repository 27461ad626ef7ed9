// Package testenv is the lab: several virtualization hosts on one machine, each
// with its own libvirtd, network and storage, in which real guests can be started
// and migrated, and links can be slowed, lost and cut.
//
//	lab, err := testenv.Up(ctx, testenv.Config{Name: "demo", Link: link.Spec{Rate: 1e9}})
//	a, err := lab.Host("a")          // a.URI() is what virsh -c takes
//	guest, err := lab.StartGuest(ctx, testenv.GuestConfig{Name: "web", Host: "a"})
//	err = lab.Down(ctx)
//
//	      machine                        one lab
//	┌──────────────────┐   ┌──────────────────────────────────────────────┐
//	│ virsh, vmmigrate │   │ daemon (process 1, client's network)         │
//	│        │ unix    │   │  ├─ host a: libvirtd, QEMU … ─┬─ migration ─┐│
//	│        └─────────┼──>│  ├─ host b: libvirtd, QEMU … ─┤   network   ││
//	│ lab directory    │   │  └─ wire: bridges, cables ────┴─ guests' ───┘│
//	└──────────────────┘   └──────────────────────────────────────────────┘
//
// # Who owns what
//
// The daemon is a child of the process that calls Up, made from the same program;
// so a program that uses this package calls [Init] first thing in main (a test
// binary: in TestMain). The daemon is the first process of a PID namespace and
// owns everything: end it, in whatever way, and the kernel ends every libvirtd and
// QEMU of the lab and removes its devices and mounts. Nothing of the machine's own
// libvirt, network or mounts is touched at any time. What remains are the files in
// the lab's directory, which Down removes, or the next Up of that name.
//
// A [Lab] is a handle: it holds no process and no descriptor, and any number of
// processes may have one, by [Open]. A lab stays up until Down, except for one that
// is bound (Config.Bound), which ends with the process that called Up.
//
// # What goes wrong half-way
//
// Up either returns a lab whose hosts all answer, or removes what it made. When the
// calling process is killed meanwhile, the daemon notices and ends; the directory
// stays until the next Up or Down. Down may be repeated, and ends a lab in any
// state: coming up, up, half gone, or known from its files alone.
//
// # What it is not
//
// Hosts share the machine's kernel, clock, processors and root file system; they
// cannot have different CPU models or kernels. Their directories are below the lab
// directory, except for guest RAM, which is on a tmpfs of each host.
//
// An emulated guest (TCG) is no proof of what QEMU's own dirty tracking is worth: on
// a machine with many more busy threads than processors one in some ten migrations
// by QEMU alone left the guest with a page that was old, and its kernel crashed, with
// none of our code at work. Verify says so when it finds that on the console.
package testenv
