package qmp

import "context"

// How a dirty rate is measured. The modes measure different things and their
// figures cannot be compared.
const (
	// DirtyRateSampling compares samples of pages: distinct pages written in the
	// window. It works everywhere and ignores RAM blocks below 128 MiB.
	DirtyRateSampling = "page-sampling"
	// DirtyRateRing counts by KVM's dirty ring, per CPU.
	DirtyRateRing = "dirty-ring"
	// DirtyRateBitmap counts by KVM's dirty log; without KVM it reads 0.
	DirtyRateBitmap = "dirty-bitmap"
)

// CalcDirtyRateArgs are the arguments of CalcDirtyRate.
type CalcDirtyRateArgs struct {
	// CalcTime is the window, in CalcTimeUnit.
	CalcTime int64 `json:"calc-time"`
	// CalcTimeUnit is second, which is also meant where it is empty, or
	// millisecond; QEMU 8.2.
	CalcTimeUnit string `json:"calc-time-unit,omitempty"`
	// SamplePages is pages per GiB, 128 to 16384.
	SamplePages *int64 `json:"sample-pages,omitempty"`
	// Mode is one of the DirtyRate constants.
	Mode string `json:"mode,omitempty"`
}

// CalcDirtyRate starts a measurement, of which there can be one at a time. It
// returns at once; QueryDirtyRate has the result after the window.
func CalcDirtyRate(ctx context.Context, x Executor, a CalcDirtyRateArgs) error {
	return run(ctx, x, "calc-dirty-rate", a)
}

// DirtyRate is how a measurement stands.
type DirtyRate struct {
	// Status is unstarted, measuring or measured.
	Status string `json:"status"`
	// Rate is MiB per second; nil until it is measured.
	Rate *int64 `json:"dirty-rate"`
	// StartTime is seconds on the host's clock since it started.
	StartTime int64 `json:"start-time"`
	// CalcTime is the window, in CalcTimeUnit.
	CalcTime int64 `json:"calc-time"`
	// CalcTimeUnit is second or millisecond; QEMU 8.2.
	CalcTimeUnit *string `json:"calc-time-unit"`
	// SamplePages is pages per GiB.
	SamplePages *uint64 `json:"sample-pages"`
	// Mode is one of the DirtyRate constants.
	Mode *string `json:"mode"`
	// PerCPU is each CPU's share, where the mode tells.
	PerCPU []VCPUDirtyRate `json:"vcpu-dirty-rate,omitempty"`
}

// VCPUDirtyRate is one CPU's rate in MiB per second.
type VCPUDirtyRate struct {
	ID   int64 `json:"id"`         // which CPU
	Rate int64 `json:"dirty-rate"` // MiB per second
}

// QueryDirtyRate asks for the latest measurement.
func QueryDirtyRate(ctx context.Context, x Executor) (DirtyRate, error) {
	return query[DirtyRate](ctx, x, "query-dirty-rate", nil)
}

// cpuIndex is an optional choice of a CPU.
type cpuIndex struct {
	Index *int64 `json:"cpu-index,omitempty"`
}

// SetVCPUDirtyLimit holds a CPU, or all if cpu is nil, back to that many MiB per
// second. It needs KVM's dirty ring.
func SetVCPUDirtyLimit(ctx context.Context, x Executor, cpu *int64, mibPerSecond uint64) error {
	return run(ctx, x, "set-vcpu-dirty-limit", struct {
		cpuIndex
		Rate uint64 `json:"dirty-rate"`
	}{cpuIndex{cpu}, mibPerSecond})
}

// CancelVCPUDirtyLimit lifts the limit of a CPU, or of all if cpu is nil.
func CancelVCPUDirtyLimit(ctx context.Context, x Executor, cpu *int64) error {
	return run(ctx, x, "cancel-vcpu-dirty-limit", cpuIndex{cpu})
}

// VCPUDirtyLimit is one CPU's limit and present rate in MiB per second.
type VCPUDirtyLimit struct {
	CPUIndex    int64  `json:"cpu-index"`    // which CPU
	LimitRate   uint64 `json:"limit-rate"`   // what it is held to
	CurrentRate uint64 `json:"current-rate"` // what it does
}

// QueryVCPUDirtyLimit lists the limits in force.
func QueryVCPUDirtyLimit(ctx context.Context, x Executor) ([]VCPUDirtyLimit, error) {
	return query[[]VCPUDirtyLimit](ctx, x, "query-vcpu-dirty-limit", nil)
}
