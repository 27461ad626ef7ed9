package migrate

import "time"

// HostFacts tells what check needs to know of a host. Empty or nil means: could not tell.
type HostFacts struct {
	Driver    string // "libvirt" or "qemu"
	Hostname  string
	HostUUID  string
	Arch      string
	LibVer    Version // libvirt's version; zero for bare QEMU
	QEMUVer   Version // of the default emulator (libvirt), or of the running one
	FreeBytes *int64  // free memory
	// Clock is the host's time when asked, Asked the coordinator's in the middle of asking, Uncertainty half the round
	// trip. Zero Clock: could not tell.
	Clock, Asked time.Time
	Uncertainty  time.Duration
	// KnowsUUIDs: domains are found by their UUID, too, which they keep when they move.
	KnowsUUIDs bool
	// Encrypted and Local tell how the coordinator reaches it.
	Encrypted, Local bool
}

// Version is a dotted version number.
type Version struct{ Major, Minor, Micro int }

// Less orders versions.
func (v Version) Less(w Version) bool {
	if v.Major != w.Major {
		return v.Major < w.Major
	}
	if v.Minor != w.Minor {
		return v.Minor < w.Minor
	}
	return v.Micro < w.Micro
}

// Zero tells that the version is not known.
func (v Version) Zero() bool { return v == Version{} }

// Backing is what guest RAM is made of.
type Backing string

// The kinds of guest RAM.
const (
	BackingAnonymous Backing = "anonymous"
	BackingFile      Backing = "file"
	BackingMemfd     Backing = "memfd"
	BackingHugetlb   Backing = "hugetlb"
)

// DomainFacts describes a guest on one host.
type DomainFacts struct {
	Name, UUID string
	State      GuestState
	Persistent bool
	// Memory is the guest's RAM in bytes, VCPUs the number of its processors.
	Memory int64
	VCPUs  int
	// Backing of its RAM; Shared tells that other processes may map it; PageSize in bytes of one host page, 0 unknown.
	Backing  Backing
	Shared   bool
	PageSize int64
	// RAMFiles tells that all of its RAM is in files that are mapped shared (QEMU's memory-backend-file with share=on), the
	// only kind that somebody else than QEMU can move. RAMPath is one of these files on the host; empty: not known.
	RAMFiles bool
	RAMPath  string
	// Machine is the resolved machine type (pc-q35-10.0), Emulator the QEMU binary, Accel kvm or tcg (libvirt calls it qemu).
	Machine, Emulator, Accel string
	// CPU is the CPU element of libvirt's XML, or QEMU's CPU type.
	CPU     string
	Disks   []Disk
	Devices []Device
	NICs    []NIC
	// XML is the domain's migratable description; empty for bare QEMU.
	XML string
}

// Disk is one block device of a guest.
type Disk struct {
	Target   string // vda
	Path     string // file or device on the host, or URI for network disks
	Kind     string // file, block, network, volume
	Format   string
	Capacity int64 // bytes; 0 unknown
	Used     int64 // allocated bytes; 0 unknown
	ReadOnly bool
	// Shareable disks may be opened by two QEMUs.
	Shareable bool
	CDROM     bool
	// Discard tells that QEMU frees space of the image when it is told to: without, a raw image that is copied to takes all
	// of its size.
	Discard bool
}

// Device is a device that may forbid a migration, or parts of it.
type Device struct {
	// Kind: hostdev, vhost-user, virtiofs, mdev, tpm, pci, usb, balloon, virtio-mem, virtio-pmem, memballoon, channel, vdpa,
	// shmem, 9p.
	Kind string
	// Alias is the hypervisor's name of it, Detail what a person needs to find it.
	Alias, Detail string
}

// NIC is one network card.
type NIC struct {
	MAC, Model string
	// Source is the bridge or network it is plugged into, by its name on the host; Kind: bridge, network, direct, user, vhostuser.
	Kind, Source string
}

// VolumeFacts tells what a host has, or could create, at the path of a disk image. Empty or nil means: could not tell.
type VolumeFacts struct {
	// Exists tells that there is an image at the path; Capacity (bytes) and Format are then its own.
	Exists   bool
	Capacity int64
	Format   string
	// PoolName is the storage pool whose target holds the path; empty if no pool does, and nothing can then be created
	// there. PoolActive tells that it is started; FreeBytes is its free space.
	PoolName   string
	PoolActive bool
	FreeBytes  *int64
	// Agent tells that the host's agent looked, and makes the image if there is none, whatever the pools: FreeBytes is then
	// what the file system has of that number. InUse tells that somebody has the image open.
	Agent      bool
	Filesystem uint64
	InUse      bool
}
