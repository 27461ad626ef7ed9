package oracle

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/vmmigrate/vmmigrate/testenv/workload"
)

// Runner makes a Keeper write what a workload plans. Make it with NewRunner,
// run it with Run.
type Runner struct {
	keeper *Keeper
	seed   uint64

	mu   sync.Mutex // ordered before the Keeper's locks
	plan *workload.Plan
	from Seal      // guarded by mu; the seal when the plan began
	at   time.Time // guarded by mu; when the plan began
	rate meter     // guarded by mu
}

// runnerNap is how long the Runner rests when nothing is due, and the longest
// it writes before it looks at the time again.
const runnerNap = time.Millisecond

// NewRunner plans spec over what keeper keeps. The error wraps
// workload.ErrSpec.
func NewRunner(keeper *Keeper, spec workload.Spec, seed uint64) (*Runner, error) {
	r := &Runner{keeper: keeper, seed: seed}
	if err := r.SetWorkload(spec); err != nil {
		return nil, err
	}
	return r, nil
}

// SetWorkload changes what is written from now on. The region keeps its size:
// a spec that wants more memory than that is refused, and the old one runs on.
func (r *Runner) SetWorkload(spec workload.Spec) error {
	pages := r.keeper.Pages()
	if spec.Kind != workload.BlockIO && uint64(spec.Size) > pages*PageSize {
		return fmt.Errorf("%w: size=%d is more than the %d bytes that this guest set aside when it booted",
			workload.ErrSpec, spec.Size, pages*PageSize)
	}
	plan, err := workload.NewPlan(spec, pages, r.keeper.DiskBlocks(), r.seed)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.plan, r.from, r.at = plan, r.keeper.Seal(), time.Now()
	r.rate = meter{at: r.at, pages: r.from.Pages, blocks: r.from.Blocks}
	r.keeper.ResetReads()
	return nil
}

// Run writes until ctx ends. An error of the disk is kept by the Keeper as a
// finding, and Run goes on.
func (r *Runner) Run(ctx context.Context) {
	start := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		for r.slice(ctx, start) {
		}
		timer.Reset(runnerNap)
	}
}

// slice writes what is due, for about runnerNap, and says whether it ran out
// of time rather than of work.
func (r *Runner) slice(ctx context.Context, start time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	begun := time.Now()
	r.rate.update(begun, r.keeper.Seal())
	r.plan.Advance(begun.Sub(start))
	for n := 1; ; n++ {
		next, ok := r.plan.Next()
		if !ok {
			return false
		}
		if next.Target == workload.Block {
			_ = r.keeper.WriteBlock(next.Index) // the Keeper keeps the error as a finding
		} else {
			r.keeper.WritePage(next.Index)
		}
		if n%16 == 0 && (time.Since(begun) > runnerNap || ctx.Err() != nil) {
			return ctx.Err() == nil
		}
	}
}

// meter measures rates over windows of at least a second.
type meter struct {
	at            time.Time
	pages, blocks uint64
	// The rates of the last whole window, a second.
	pageRate, blockRate float64
}

func (m *meter) update(now time.Time, s Seal) {
	span := now.Sub(m.at).Seconds()
	if span < 1 {
		return
	}
	m.pageRate, m.blockRate = float64(s.Pages-m.pages)/span, float64(s.Blocks-m.blocks)/span
	m.at, m.pages, m.blocks = now, s.Pages, s.Blocks
}

// Stats is how a guest is doing.
type Stats struct {
	// Guest is the guest's name, Workload what runs, in workload.Parse's form.
	Guest    string `json:"guest"`
	Workload string `json:"workload"`
	// Pages and Blocks are the sizes of the region and of all disks.
	Pages  uint64 `json:"pages"`
	Blocks uint64 `json:"blocks"`
	// PagesWritten and BlocksWritten count from when the workload was set,
	// Running before now, by the guest's clock.
	PagesWritten  uint64        `json:"pages_written"`
	BlocksWritten uint64        `json:"blocks_written"`
	Running       time.Duration `json:"running_ns"`
	// PageRate and BlockRate are what was achieved in the last whole second
	// or so, a second.
	PageRate  float64 `json:"page_rate"`
	BlockRate float64 `json:"block_rate"`
	// Reads says how long the disks took to read one block, since the workload was
	// set and by the guest's clock.
	Reads RoundTrip `json:"reads"`
	// Seal is where the guest is.
	Seal Seal `json:"seal"`
}

// Stats says what was written since the workload was set.
func (r *Runner) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	seal, now := r.keeper.Seal(), time.Now()
	r.rate.update(now, seal)
	return Stats{
		Guest: r.keeper.Guest(), Workload: r.plan.Spec().String(),
		Pages: r.keeper.Pages(), Blocks: r.keeper.Blocks(),
		PagesWritten: seal.Pages - r.from.Pages, BlocksWritten: seal.Blocks - r.from.Blocks,
		Running: now.Sub(r.at), PageRate: r.rate.pageRate, BlockRate: r.rate.blockRate,
		Reads: r.keeper.Reads(), Seal: seal,
	}
}

// Workload is what runs, in workload.Parse's form.
func (r *Runner) Workload() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.plan.Spec().String()
}
