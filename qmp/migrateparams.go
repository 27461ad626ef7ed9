package qmp

import (
	"context"
	"encoding/json"
)

// MigrationParameters are the tunables of a migration. When set, a nil field is
// left as it is; when queried, it was not in the answer.
type MigrationParameters struct {
	// AnnounceInitial, AnnounceMax and AnnounceStep are milliseconds.
	AnnounceInitial *uint64 `json:"announce-initial,omitempty"`
	AnnounceMax     *uint64 `json:"announce-max,omitempty"`
	AnnounceRounds  *uint64 `json:"announce-rounds,omitempty"`
	AnnounceStep    *uint64 `json:"announce-step,omitempty"`

	// MaxBandwidth is bytes per second; QEMU's own default is 128 MiB/s.
	MaxBandwidth *uint64 `json:"max-bandwidth,omitempty"`
	// AvailSwitchoverBandwidth is bytes per second that the pause may count on, 0
	// for an estimate; QEMU 8.2.
	AvailSwitchoverBandwidth *uint64 `json:"avail-switchover-bandwidth,omitempty"`
	// MaxPostcopyBandwidth is bytes per second of background pages, 0 for no limit.
	MaxPostcopyBandwidth *uint64 `json:"max-postcopy-bandwidth,omitempty"`
	// DowntimeLimit is milliseconds.
	DowntimeLimit *uint64 `json:"downtime-limit,omitempty"`

	// ThrottleTriggerThreshold, CPUThrottle* and MaxCPUThrottle are percent.
	ThrottleTriggerThreshold *uint8 `json:"throttle-trigger-threshold,omitempty"`
	CPUThrottleInitial       *uint8 `json:"cpu-throttle-initial,omitempty"`
	CPUThrottleIncrement     *uint8 `json:"cpu-throttle-increment,omitempty"`
	CPUThrottleTailslow      *bool  `json:"cpu-throttle-tailslow,omitempty"`
	MaxCPUThrottle           *uint8 `json:"max-cpu-throttle,omitempty"`
	// VCPUDirtyLimit is MiB per second; QEMU 8.1.
	VCPUDirtyLimit *uint64 `json:"vcpu-dirty-limit,omitempty"`
	// VCPUDirtyLimitPeriod is milliseconds; unstable in QEMU.
	VCPUDirtyLimitPeriod *uint64 `json:"x-vcpu-dirty-limit-period,omitempty"`

	// TLSCreds names the object with the credentials; "" switches TLS off.
	TLSCreds *string `json:"tls-creds,omitempty"`
	// TLSHostname is the name to verify, where it is not that of the URI.
	TLSHostname *string `json:"tls-hostname,omitempty"`
	// TLSAuthz names the authorization object that checks the client.
	TLSAuthz *string `json:"tls-authz,omitempty"`

	// MultifdChannels is how many connections carry memory.
	MultifdChannels *uint8 `json:"multifd-channels,omitempty"`
	// MultifdCompression is none, zlib, zstd or what else QEMU was built with.
	MultifdCompression *string `json:"multifd-compression,omitempty"`
	MultifdZlibLevel   *uint8  `json:"multifd-zlib-level,omitempty"`
	MultifdZstdLevel   *uint8  `json:"multifd-zstd-level,omitempty"`
	MultifdQatzipLevel *uint8  `json:"multifd-qatzip-level,omitempty"`
	// XBZRLECacheSize is bytes, a power of 2.
	XBZRLECacheSize *uint64 `json:"xbzrle-cache-size,omitempty"`
	// ZeroPageDetection is none, legacy or multifd; QEMU 9.0.
	ZeroPageDetection *string `json:"zero-page-detection,omitempty"`

	// Mode is normal, cpr-reboot or cpr-transfer; QEMU 8.2.
	Mode *string `json:"mode,omitempty"`
	// DirectIO bypasses the page cache for files; QEMU 9.1.
	DirectIO *bool `json:"direct-io,omitempty"`
	// CheckpointDelay is milliseconds between checkpoints of COLO.
	CheckpointDelay *uint32 `json:"x-checkpoint-delay,omitempty"`
	// BlockBitmapMapping is QEMU's list of nodes and bitmaps, as it is.
	BlockBitmapMapping json.RawMessage `json:"block-bitmap-mapping,omitempty"`
}

// QueryMigrateParameters gives the tunables in force.
func QueryMigrateParameters(ctx context.Context, x Executor) (MigrationParameters, error) {
	return query[MigrationParameters](ctx, x, "query-migrate-parameters", nil)
}

// SetMigrateParameters changes the tunables that are not nil. Bandwidths and the
// downtime limit take effect in a running migration. QEMU refuses the whole set
// if it does not know one of them.
func SetMigrateParameters(ctx context.Context, x Executor, p MigrationParameters) error {
	return run(ctx, x, "migrate-set-parameters", p)
}
