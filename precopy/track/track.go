package track

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// Region is a RAM block and where it is.
type Region struct {
	Block ram.Block
	// Addr is where the process has mapped it, a multiple of the page size.
	Addr uint64
	// File is the file that is mapped there, shared, with the block at Base; nil for memory without one, or mapped
	// privately. Without it nothing is known of holes: all pages are in the first harvest.
	File *os.File
	Base int64
}

// end is the first address behind the region.
func (r Region) end() uint64 { return r.Addr + uint64(r.Block.Size) }

// Tracker tells what was written. See the package comment.
type Tracker interface {
	// Name is the kind of the tracker.
	Name() string
	// Harvest gives the pages written since the last one and starts anew; the first one gives all that are not holes.
	// The caller owns the set. On an error, that of an ended ctx too, it has every page, and is to be used all the same.
	Harvest(ctx context.Context) (ram.Set, error)
	// Close takes the tracker out of the process. It is idempotent, and no error if the process is gone.
	Close() error
}

// Witness is a tracker that has to be told what the destination was sent. What it is not told of stays dirty.
type Witness interface {
	// Sent tells that these bytes, whole pages, were read from a block and went to the destination. Only then, and not
	// for what somebody else reads. Of calls for the same page the last counts.
	Sent(block int, off int64, p []byte)
	// SentZeroes is Sent for length zeros.
	SentZeroes(block int, off, length int64)
}

// The kinds of trackers.
const (
	KindUserfault = "uffd-wp"
	KindSoftDirty = "soft-dirty"
	KindHash      = "hash"
)

// Kinds lists them, best first.
func Kinds() []string { return []string{KindUserfault, KindSoftDirty, KindHash} }

// ErrClosed is what Harvest of a closed tracker wraps.
var ErrClosed = errors.New("the tracker is closed")

// ErrGone is what Harvest wraps when the process has ended or replaced its memory.
var ErrGone = errors.New("the process is gone")

// Probe tells whether this machine has what a kind of tracker needs. It does not know the process: a sandbox around it may
// still refuse uffd-wp.
func Probe(kind string) sys.Probe {
	p := probeKernel(kind)
	if kind == KindUserfault && p.Presence == sys.Present {
		return sys.ProbeInject()
	}
	return p
}

// probeKernel asks for what no privilege can replace.
func probeKernel(kind string) sys.Probe {
	switch kind {
	case KindUserfault:
		if p := sys.ProbeWPAsync(); p.Presence != sys.Present {
			return p
		}
		return sys.ProbePagemapScan()
	case KindSoftDirty:
		return sys.ProbeSoftDirty()
	case KindHash:
		return sys.Probe{Presence: sys.Present, Reason: "it reads all RAM at each harvest"}
	}
	return sys.Probe{Presence: sys.Absent, Reason: fmt.Sprintf("there is no tracker %q", kind), Remedy: "use one of " + strings.Join(Kinds(), ", ")}
}

// Open arms a tracker of that kind on the regions of the process, in the order of the guest's blocks. An empty kind is the
// best that can be armed; hash is not taken then, since it works only for a caller that knows of Witness. The caller closes
// it.
func Open(ctx context.Context, kind string, pid int, regions []Region) (Tracker, error) {
	if err := check(regions); err != nil {
		return nil, err
	}
	if kind != "" {
		return open(ctx, kind, pid, regions)
	}
	var why []error
	for _, kind := range []string{KindUserfault, KindSoftDirty} {
		t, err := open(ctx, kind, pid, regions)
		if err == nil {
			return t, nil
		}
		why = append(why, err)
	}
	return nil, errors.Join(why...)
}

func open(ctx context.Context, kind string, pid int, regions []Region) (Tracker, error) {
	if p := probeKernel(kind); p.Presence == sys.Absent {
		return nil, fmt.Errorf("track by %s: %s; remedy: %s", kind, p.Reason, p.Remedy)
	}
	var w watcher
	var err error
	switch kind {
	case KindUserfault:
		w, err = openUserfault(ctx, pid, regions)
	case KindSoftDirty:
		w, err = openSoftDirty(pid, regions)
	case KindHash:
		return openHash(pid, regions)
	}
	if err != nil {
		return nil, fmt.Errorf("track by %s: %w", kind, err)
	}
	return newTracker(kind, regions, w), nil
}

// check refuses regions that make no sense.
func check(regions []Region) error {
	if len(regions) == 0 {
		return errors.New("track: no RAM blocks")
	}
	for _, r := range regions {
		if err := r.Block.Check(); err != nil {
			return fmt.Errorf("track: %w", err)
		}
		if r.Addr == 0 || r.Addr%uint64(r.Block.PageSize) != 0 || r.end() < r.Addr || r.Base < 0 {
			return fmt.Errorf("track: RAM block %q of %d bytes cannot be at %#x", r.Block.Name, r.Block.Size, r.Addr)
		}
	}
	return nil
}
