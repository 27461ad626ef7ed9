package migrate

import "time"

// CopyStorage says which disks travel with the guest.
type CopyStorage string

// Spellings follow virsh: none (disks are shared), --copy-storage-all, --copy-storage-inc (shared backing files).
const (
	CopyNone CopyStorage = ""
	CopyAll  CopyStorage = "all"
	CopyInc  CopyStorage = "inc"
	// CopyAfter is ours: the guest runs at the destination first, and its disks follow.
	CopyAfter CopyStorage = "after"
)

// KeepLimit is how long it may take to keep a copy of a guest's RAM where it was.
const KeepLimit = 30 * time.Minute

// Params is everything a user may ask of one migration, resolved: no "auto" is left in it once an engine sees it.
// It is a value; nobody changes it while the migration runs. Zero means "the hypervisor's default" unless said otherwise.
type Params struct {
	Strategy Strategy `json:"strategy"`

	// MigrateURI is where the source sends the RAM (tcp://host:port, unix:///path); empty lets the destination say.
	MigrateURI string `json:"migrate_uri,omitempty"`
	// ListenAddress is the address the destination listens on; empty is its default.
	ListenAddress string `json:"listen_address,omitempty"`
	// DestinationName, DestinationXML and PersistentXML replace the name and the XML at the destination.
	DestinationName string `json:"destination_name,omitempty"`
	DestinationXML  string `json:"destination_xml,omitempty"`
	PersistentXML   string `json:"persistent_xml,omitempty"`

	// Persistent defines the domain at the destination, UndefineSource undefines it at the source after success.
	Persistent     bool `json:"persistent,omitempty"`
	UndefineSource bool `json:"undefine_source,omitempty"`
	// Suspend leaves the guest paused at the destination.
	Suspend bool `json:"suspend,omitempty"`
	// PeerToPeer lets the source's daemon drive the phases; it then survives the coordinator.
	PeerToPeer bool `json:"p2p,omitempty"`
	// PeerURI is the destination's URI as the source's daemon can reach it (p2p); empty is the destination's URI itself.
	PeerURI string `json:"peer_uri,omitempty"`
	// Unsafe migrates although libvirt thinks that disks may be corrupted.
	Unsafe bool `json:"unsafe,omitempty"`

	// Bandwidth caps the copy in bytes per second; 0 is no cap of ours. BandwidthPostcopy is the cap after the switch.
	Bandwidth         int64 `json:"bandwidth,omitempty"`
	BandwidthPostcopy int64 `json:"bandwidth_postcopy,omitempty"`
	// BandwidthDisk caps the copy of all disks together; 0 is as Bandwidth.
	BandwidthDisk int64 `json:"bandwidth_disk,omitempty"`
	// DiskIdle ends the migration, before the commit, when the copy of a disk moved nothing for so long though it has something
	// to send; 0 is never. DiskFull is how long a copy waits for room at the destination where it can; 0 is not at all.
	DiskIdle time.Duration `json:"disk_idle,omitempty"`
	DiskFull time.Duration `json:"disk_full,omitempty"`
	// MaxDowntime is the pause the user accepts; the ramp starts below it. 0 is 300 ms.
	MaxDowntime time.Duration `json:"max_downtime,omitempty"`
	// MaxDuration is the time limit for everything before the commit; 0 is none.
	MaxDuration time.Duration `json:"max_duration,omitempty"`
	// Timeout ends the copying by force after this time: the guest is suspended, or with TimeoutPostcopy the migration
	// goes over to post-copy. 0 is none.
	Timeout         time.Duration `json:"timeout,omitempty"`
	TimeoutPostcopy bool          `json:"timeout_postcopy,omitempty"`

	// Parallel is the number of multifd channels; 0 is a single stream.
	Parallel int `json:"parallel,omitempty"`
	// AutoConverge throttles the guest when rounds do not shrink; the two figures are percent, 0 is QEMU's default.
	AutoConverge          bool `json:"auto_converge,omitempty"`
	AutoConvergeInitial   int  `json:"auto_converge_initial,omitempty"`
	AutoConvergeIncrement int  `json:"auto_converge_increment,omitempty"`
	// DirtyLimit throttles vCPUs by their dirty rate instead (bare QEMU under KVM with a dirty ring only).
	DirtyLimit bool `json:"dirty_limit,omitempty"`
	// Compression names QEMU's methods, such as zstd with multifd, or xbzrle.
	Compression []string `json:"compression,omitempty"`
	// Preempt asks for post-copy-preempt where the driver can set it.
	Preempt bool `json:"preempt,omitempty"`

	// CopyStorage and MigrateDisks (target names such as vda; empty = all writable) choose the disks to move.
	CopyStorage       CopyStorage `json:"copy_storage,omitempty"`
	MigrateDisks      []string    `json:"migrate_disks,omitempty"`
	SynchronousWrites bool        `json:"synchronous_writes,omitempty"`
	DisksURI          string      `json:"disks_uri,omitempty"`
	DisksPort         int         `json:"disks_port,omitempty"`
	// Disks gives copied disks other places or formats at the destination.
	Disks []DiskMap `json:"disks,omitempty"`
	// ThinDisks are those whose zeros are to take no space at the destination: its image is new, or gives back what is
	// discarded. It is set by an engine, never by a user.
	ThinDisks []string `json:"thin_disks,omitempty"`

	// TLS encrypts RAM and disk streams. TLSDestination is the name in the destination's certificate, if not the host's.
	TLS            bool   `json:"tls,omitempty"`
	TLSDestination string `json:"tls_destination,omitempty"`

	// SharedRAM leaves RAM in shared files (memory-backend-file,share=on) out of QEMU's stream: somebody else moves it.
	// QEMU calls it x-ignore-shared. It is set by an engine, never by a user.
	SharedRAM bool `json:"shared_ram,omitempty"`

	// Prepage names the policy that chooses which page comes next after the switch; empty is the engine's choice.
	Prepage string `json:"prepage,omitempty"`
	// Tracker names who finds dirty pages for the nbd engine; empty is the best there is.
	Tracker string `json:"tracker,omitempty"`
	// PlainData leaves the connections between agents without encryption.
	PlainData bool `json:"plain_data,omitempty"`

	// Reuse uses what the destination still holds of the guest from an earlier stay, and fetches only what differs: of its RAM,
	// if a copy was kept there, and of its disks.
	Reuse bool `json:"reuse,omitempty"`
	// ReuseRAM is a file at the destination with the guest's RAM as it once was, all blocks back to back, as the export ram of an
	// agent gives it. It is used instead of a copy that was kept there.
	ReuseRAM string `json:"reuse_ram,omitempty"`
	// KeepCopy leaves a copy of the guest's RAM at the source when the guest has left, for a return with Reuse.
	KeepCopy bool `json:"keep_copy,omitempty"`

	// Resume recovers a post-copy migration that is paused instead of starting one.
	Resume bool `json:"resume,omitempty"`
}
