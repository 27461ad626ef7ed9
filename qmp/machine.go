package qmp

import "context"

// QueryVersion asks for QEMU's version, which a Client also knows from the
// greeting.
func QueryVersion(ctx context.Context, x Executor) (Version, error) {
	return query[Version](ctx, x, "query-version", nil)
}

// QueryName gives the guest's name; ok is false if QEMU was given none.
func QueryName(ctx context.Context, x Executor) (name string, ok bool, err error) {
	v, err := query[struct {
		Name *string `json:"name"`
	}](ctx, x, "query-name", nil)
	if err != nil || v.Name == nil {
		return "", false, err
	}
	return *v.Name, true, nil
}

// QueryUUID gives the guest's UUID, all zeros if QEMU was given none.
func QueryUUID(ctx context.Context, x Executor) (string, error) {
	v, err := query[struct {
		UUID string `json:"UUID"`
	}](ctx, x, "query-uuid", nil)
	return v.UUID, err
}

// QueryTarget gives the architecture that QEMU emulates, such as x86_64.
func QueryTarget(ctx context.Context, x Executor) (string, error) {
	v, err := query[struct {
		Arch string `json:"arch"`
	}](ctx, x, "query-target", nil)
	return v.Arch, err
}

// KVMInfo is the answer to query-kvm.
type KVMInfo struct {
	// Enabled tells whether this guest runs under KVM.
	Enabled bool `json:"enabled"`
	// Present tells whether this QEMU was built with it.
	Present bool `json:"present"`
}

// QueryKVM asks whether the guest runs under KVM.
func QueryKVM(ctx context.Context, x Executor) (KVMInfo, error) {
	return query[KVMInfo](ctx, x, "query-kvm", nil)
}

// MachineInfo is a machine type that QEMU offers.
type MachineInfo struct {
	Name string `json:"name"` // such as pc-q35-10.0
	// Alias is a second name, such as q35 for the newest of its kind.
	Alias *string `json:"alias"`
	// IsDefault is present on the default machine.
	IsDefault *bool `json:"is-default"`
	// CPUMax is the largest number of CPUs.
	CPUMax int64 `json:"cpu-max"`
	// HotpluggableCPUs tells whether CPUs can be added while it runs.
	HotpluggableCPUs bool `json:"hotpluggable-cpus"`
	// Deprecated tells whether QEMU will drop it.
	Deprecated bool `json:"deprecated"`
	// DefaultCPUType is the CPU it has unless told otherwise.
	DefaultCPUType *string `json:"default-cpu-type"`
	// DefaultRAMID is the name of its main memory, such as pc.ram.
	DefaultRAMID *string `json:"default-ram-id"`
	// ACPI tells whether it supports ACPI; QEMU 8.0.
	ACPI *bool `json:"acpi"`
}

// QueryMachines lists the machine types that this QEMU can run.
func QueryMachines(ctx context.Context, x Executor) ([]MachineInfo, error) {
	return query[[]MachineInfo](ctx, x, "query-machines", nil)
}

// CPUInfo is one CPU of the guest.
type CPUInfo struct {
	Index int64 `json:"cpu-index"` // number, from 0
	// QOMPath is the CPU's object.
	QOMPath string `json:"qom-path"`
	// ThreadID is the host thread that runs it.
	ThreadID int64 `json:"thread-id"`
	// Target is the architecture.
	Target string `json:"target"`
	// Props is where it sits.
	Props *CPUProps `json:"props"`
}

// CPUProps is where a CPU sits in the guest's topology.
type CPUProps struct {
	NodeID    *int64 `json:"node-id"` // NUMA node
	SocketID  *int64 `json:"socket-id"`
	DieID     *int64 `json:"die-id"`
	ClusterID *int64 `json:"cluster-id"`
	ModuleID  *int64 `json:"module-id"`
	CoreID    *int64 `json:"core-id"`
	ThreadID  *int64 `json:"thread-id"`
}

// QueryCPUsFast lists the guest's CPUs without interrupting them.
func QueryCPUsFast(ctx context.Context, x Executor) ([]CPUInfo, error) {
	return query[[]CPUInfo](ctx, x, "query-cpus-fast", nil)
}

// PCIBus is a PCI bus with its devices.
type PCIBus struct {
	Bus     int64       `json:"bus"`     // number
	Devices []PCIDevice `json:"devices"` // functions on it
}

// PCIDevice is one function of a PCI device.
type PCIDevice struct {
	Bus      int64 `json:"bus"` // number
	Slot     int64 `json:"slot"`
	Function int64 `json:"function"`
	// QdevID is the id it was given; it may be empty.
	QdevID string `json:"qdev_id"`
	// Class is the PCI class, with QEMU's words for it.
	Class PCIClass `json:"class_info"`
	// ID is the PCI identity.
	ID PCIID `json:"id"`
	// Bridge is the bus behind a bridge.
	Bridge *PCIBridge `json:"pci_bridge"`
}

// PCIClass is a PCI class.
type PCIClass struct {
	Class int64   `json:"class"` // number
	Desc  *string `json:"desc"`  // QEMU's word for it
}

// PCIID is a PCI identity.
type PCIID struct {
	Vendor          int64  `json:"vendor"`           // number
	Device          int64  `json:"device"`           // number
	SubsystemVendor *int64 `json:"subsystem-vendor"` // number
	Subsystem       *int64 `json:"subsystem"`        // number
}

// PCIBridge is what lies behind a bridge.
type PCIBridge struct {
	Devices []PCIDevice `json:"devices,omitempty"` // absent until the firmware has numbered the bus
}

// QueryPCI lists the guest's PCI devices, without their regions.
func QueryPCI(ctx context.Context, x Executor) ([]PCIBus, error) {
	return query[[]PCIBus](ctx, x, "query-pci", nil)
}

// HumanMonitorCommand runs a command of QEMU's human monitor and gives its text.
// QEMU reports most errors of such commands as text too.
func HumanMonitorCommand(ctx context.Context, x Executor, line string) (string, error) {
	return query[string](ctx, x, "human-monitor-command", map[string]string{"command-line": line})
}
