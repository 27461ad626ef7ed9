package migrate

import (
	"context"
	"time"
)

// Metered is a host that can be asked what its running guests use, again and again. Both host drivers provide it.
type Metered interface {
	// Usage reads the counters of these domains, by name or UUID, or of all that run when none is named, in as few calls as the
	// host allows. A domain that does not run is left out.
	Usage(ctx context.Context, domains ...string) ([]Usage, error)
	// MeasureDirty has QEMU begin to count the distinct pages that the guest writes within a window of whole seconds; Usage tells the result after
	// it. One measurement can be under way at a time. It must not be begun while the guest is being migrated.
	MeasureDirty(ctx context.Context, domain string, window time.Duration) error
}

// Usage is what a guest has used since it was started. Counters that the host does not tell are absent.
type Usage struct {
	Name, UUID string
	// VCPUs that are there; 0 if not known.
	VCPUs int
	// CPU is how long its vCPUs have run, all together.
	CPU *time.Duration
	// DiskWritten and Sent are bytes to disks, and from its network cards.
	DiskWritten, Sent *int64
	// Resident is how much memory of the host the hypervisor's process of the guest takes, its own beside the guest's RAM.
	Resident *int64
	// Dirty is the latest measurement; nil if there was none.
	Dirty *DirtyMeasure
	// Migrating: RAM is being moved, or that could not be told.
	Migrating bool
}

// DirtyMeasure is a measurement of pages written, by QEMU.
type DirtyMeasure struct {
	// Done is false while it is under way.
	Done bool
	// Window in which distinct pages were counted, and how many bytes those had. QEMU tells whole MiB per second.
	Window time.Duration
	Bytes  int64
	// Mode is how: page-sampling, dirty-bitmap, dirty-ring. Figures of different modes cannot be compared.
	Mode string
}
