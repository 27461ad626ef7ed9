package check

import (
	"time"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate"
)

// Answer is one fact with what became of asking for it. The zero value was not asked, because it does not apply.
type Answer[T any] struct {
	// Value is the answer if OK.
	Value T
	OK    bool
	// Why says, if not OK, why it could not be told; empty if it was not asked.
	Why string
}

// Known is an answer.
func Known[T any](v T) Answer[T] { return Answer[T]{Value: v, OK: true} }

// CouldNotTell is the answer of a question that failed.
func CouldNotTell[T any](why string) Answer[T] { return Answer[T]{Why: why} }

// Open tells that the question was asked and not answered.
func (a Answer[T]) Open() bool { return !a.OK && a.Why != "" }

// asked tells that there is an answer, or a reason why there is none.
func (a Answer[T]) asked() bool { return a.OK || a.Why != "" }

// Facts is all that Evaluate and Resolve look at. It is a value; nothing in it is asked anew.
type Facts struct {
	Domain string
	Params migrate.Params
	// Engine is the one that was asked for; empty or auto leaves it open. HasNBD tells that the nbd engine is to be had,
	// and NBD is what it needs.
	Engine migrate.EngineName
	HasNBD bool
	NBD    NBDFacts
	// Now is the coordinator's time, against which certificates are measured.
	Now time.Time

	Source, Dest HostSide

	// Guest is the domain at the source; nil if there is no such domain.
	Guest Answer[*migrate.DomainFacts]
	// There is the guest as it would be at the destination: the domain at the source, or what Params.DestinationXML
	// makes of it. It fails if that XML cannot be read, and is not asked without a guest.
	There Answer[migrate.DomainFacts]
	// Blockers are QEMU's own reasons against a migration, Snapshots libvirt's count, BlockJobs the jobs by name.
	Blockers  Answer[[]string]
	Snapshots Answer[int]
	BlockJobs Answer[[]string]

	// Namesake and Twin are the domains at the destination of the guest's name and of its UUID; nil if there is none.
	Namesake, Twin Answer[*migrate.DomainFacts]
	// Machines are the machine types of the destination's QEMU.
	Machines Answer[[]string]
	CPU      Answer[CPUFit]
	// HugePages is the number of free huge pages of the guest's page size at the destination.
	HugePages Answer[int64]
	// Images are the disks' images at the destination, by target; Shared tells whether the source's path is on storage
	// that other hosts share; InUse names the domain at the destination that uses it, or "".
	Images map[string]Answer[migrate.VolumeFacts]
	Shared map[string]Answer[bool]
	InUse  map[string]Answer[string]
	// Links tells whether what a network card is plugged into exists at the destination, by kind and name.
	Links map[Link]Answer[bool]
	// Userfault is what decides over userfaultfd at the destination.
	Userfault Answer[UserfaultFacts]
	// RAMFilesystem is the type of file system that holds guest RAM at the destination, if it is a file there.
	RAMFilesystem Answer[string]

	Reach Reach
	Certs []CertFacts
}

// HostSide is one host.
type HostSide struct {
	URI   string
	Facts Answer[migrate.HostFacts]
	// Conf is what concerns us of its qemu.conf.
	Conf Answer[QEMUConf]
}

// CPUFit tells whether a host offers a CPU, and if not, what is missing.
type CPUFit struct {
	Compatible bool
	Why        string
}

// Link is what a network card is plugged into.
type Link struct{ Kind, Name string }

// UserfaultFacts decide whether a QEMU may open a userfaultfd.
type UserfaultFacts struct {
	// Sysctl is the content of vm.unprivileged_userfaultfd; Missing tells that the kernel has no such thing.
	Sysctl  Answer[string]
	Missing bool
	// Device is /dev/userfaultfd; nil if it does not exist.
	Device Answer[*sys.FileInfo]
	// User is who QEMU runs as.
	User Answer[Account]
	// Privileged tells that QEMU keeps CAP_SYS_PTRACE.
	Privileged Answer[bool]
	// DeviceAllowed tells that the host's driver lets QEMU see the device.
	DeviceAllowed bool
}

// Account is a user with all of his groups.
type Account struct {
	Name string
	UID  uint32
	GIDs []uint32
}

// Reach is what was seen of the destination from the source.
type Reach struct {
	// From is where it was seen from, in words; Here tells that this is the coordinator because there was no way to
	// look from the source, and then nothing of it may block.
	From string
	Here bool
	// Name is what the source will call the destination; "" if it cannot be known before the destination is asked.
	Name string
	// Addresses are what the name means there; empty if it means nothing.
	Addresses Answer[[]string]
	// SameNetwork tells that both ends live in one network namespace, where a loopback address is right.
	SameNetwork Answer[bool]
	Ports       []PortFacts
}

// PortFacts is one port that the source has to reach.
type PortFacts struct {
	// Purpose in words ("RAM"), Address as dialled (host:port); Range is what it stands for (49152-49215), or "".
	Purpose, Address, Range string
	// Daemon tells that somebody must listen there now; otherwise nobody may.
	Daemon bool
	// Taken tells that somebody listens there though nobody may; the port was then not dialled.
	Taken bool
	Seen  Answer[Contact]
}

// Contact is what became of dialling a port.
type Contact string

// What can be seen of a port. A refusal comes from the host itself, so the port is reachable.
const (
	ContactOpen    Contact = "open"
	ContactRefused Contact = "refused"
	ContactBlocked Contact = "blocked"
)

// CertFacts is one certificate with its key and CA, as files of one host.
type CertFacts struct {
	Side migrate.Side
	// Use in words ("migration"), Server tells which end of the connection it is for.
	Use    string
	Server bool
	// The paths, for titles and fixes.
	CAPath, CertPath, KeyPath string
	// The contents, PEM; nil if there is no such file. The key's content is never read.
	CA, Cert Answer[[]byte]
	Key      Answer[*sys.FileInfo]
	// Reader is who has to read the key.
	Reader Answer[Account]
	// Name is what the certificate has to bear; "" if anything will do.
	Name string
	// PeerCA is the CA that the other end verifies with.
	PeerCA Answer[[]byte]
}
