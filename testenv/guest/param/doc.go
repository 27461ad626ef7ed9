// Package param carries what makes one lab guest different from the next on
// the kernel command line: written by package guest, read by guest/init.
//
//	vmm.name=web vmm.ip=10.77.0.10/24 vmm.gw=10.77.0.1 vmm.mac=52:54:00:77:00:0a
//	vmm.seed=7 vmm.workload=hotset:size=128MiB,rate=20000
//
// Words that do not begin with "vmm." belong to the kernel and are passed over;
// an unknown word that does is an error, so that a misspelt one does not become
// a guest that quietly does something else. The package does no I/O.
package param
