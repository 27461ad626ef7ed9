package check

import (
	"context"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// What a host driver may offer beyond migrate.Host. A question that the driver cannot be asked was not asked: it gives
// no finding, unless a guest would be at risk without the answer.
type (
	// domainLister names all domains, running or not.
	domainLister interface {
		Domains(ctx context.Context) ([]string, error)
	}
	// machineLister lists machine types; empty arguments are the host's defaults, virt is kvm or qemu.
	machineLister interface {
		MachineTypes(ctx context.Context, emulator, arch, virt string) ([]string, error)
	}
	// cpuComparer tells whether the host's default emulator offers a CPU.
	cpuComparer interface {
		CompareCPU(ctx context.Context, cpuXML string) (compatible bool, why string, err error)
	}
	// cpuComparerOn is cpuComparer for a certain emulator, architecture, machine type and accelerator.
	cpuComparerOn interface {
		CompareCPUOn(ctx context.Context, emulator, arch, machine, virt, cpuXML string) (compatible bool, why string, err error)
	}
	// volumeLooker tells what is at a path as far as the host's storage pools know.
	volumeLooker interface {
		Volume(ctx context.Context, path string) (migrate.VolumeFacts, error)
	}
	// bridgeLooker tells whether the host has a network device of that name; known is false where it cannot tell.
	bridgeLooker interface {
		HasBridge(ctx context.Context, name string) (known, ok bool)
	}
	// networkLister lists the networks that are started.
	networkLister interface {
		Networks(ctx context.Context) ([]string, error)
	}
	// hugePager counts free huge pages of a size in bytes.
	hugePager interface {
		HugePagesFree(ctx context.Context, size int64) (int64, error)
	}
	// snapshotCounter counts the snapshots and checkpoints of a domain.
	snapshotCounter interface {
		Snapshots(ctx context.Context, name string) (int, error)
	}
	// blockJobLister names the block jobs that run on a domain, with their disks.
	blockJobLister interface {
		BlockJobs(ctx context.Context, name string) ([]string, error)
	}
	// blockerLister gives QEMU's own reasons against a migration.
	blockerLister interface {
		MigrationBlockers(ctx context.Context, name string) ([]string, error)
	}
)
