package qmp

import "context"

// BlockStats is what passed through a block device since QEMU was started.
type BlockStats struct {
	Device string `json:"device"` // empty where it has no name
	QDev   string `json:"qdev"`   // of the device that the guest sees; empty for others
	Stats  struct {
		ReadBytes  int64 `json:"rd_bytes"`
		WriteBytes int64 `json:"wr_bytes"`
	} `json:"stats"`
}

// QueryBlockStats reads the counters of the guest's block devices.
func QueryBlockStats(ctx context.Context, x Executor) ([]BlockStats, error) {
	return query[[]BlockStats](ctx, x, "query-blockstats", nil)
}
