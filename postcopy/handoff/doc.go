// Package handoff takes over the userfaultfd of a process that hands it over through a unix socket, so that the pager of
// package postcopy fills its memory: a Firecracker microVM that starts from a snapshot, or a program that uses
// userfaultfd-go.
//
//	who faults                                         us
//	  userfaultfd(2), UFFDIO_API, REGISTER
//	  connect ───────────── unix stream socket ──────> Receive or ReceiveTransfer
//	  message + descriptor ──────────────────────────> Handover {userfaultfd, regions}
//	  runs, touches memory ─── faults ───────────────> postcopy.Pager <── Fetcher: File, or an NBD export
//
// Two forms are known.
//
// Firecracker's: one JSON array with an object for each region of guest memory, and the descriptor beside its first byte.
//
//	[{"base_host_virt_addr":140000000000000,"size":134217728,"offset":0,"page_size":4096,"page_size_kib":4096}]
//
// The address is the one in its own process, the offset that of the region's contents in the snapshot's memory file; all
// is in bytes. Old releases name no page size: it is 4096 then. Later ones name it page_size_kib, in bytes all the same, and
// new ones page_size besides, with the other name deprecated. Unknown members are ignored, which is not this project's
// habit: Firecracker adds members in minor releases, and its own handlers ignore them. Two page sizes that differ are
// refused.
//
// userfaultfd-go's: eight bytes, the address in big-endian order, then one byte with the descriptors. Its version 0.1.2
// sends its own descriptor 0 along with the userfaultfd; it is closed at once. The length of the region is not told: the
// two programs have to agree on it.
//
// What arrives is checked: every length before anything is allocated for it, regions for whole pages and for overlaps,
// and that exactly one of the descriptors is a userfaultfd. All other descriptors are closed, also when something else is
// refused. A peer that says nothing is waited for until the context ends.
//
// The Handover owns the descriptor and closes it with Close. The connection stays the caller's: Firecracker keeps its end
// open as long as it lives, so that its end of file means that it is gone. Once the Handover is closed while pages are
// missing, the process that faults stands still for good where it has kept its own descriptor, as Firecracker does, and
// reads zeros where it has not.
//
// The package does not start processes, listen, or decide whom to trust: whoever can connect to the socket can have
// memory of its own process filled with the file's bytes, and nothing else. Its callers place the socket where only
// the right process can come, and may ask sys.PeerOf who it is.
package handoff
