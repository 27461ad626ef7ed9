package oracle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// BlockDevice is the guest's disk. Reads have to reach the disk and not a
// cache of the guest: open a real one with O_DIRECT.
type BlockDevice interface {
	io.ReaderAt
	io.WriterAt
	// Sync returns when all that was written is on stable storage.
	Sync() error
}

// KeeperConfig is what a Keeper keeps.
type KeeperConfig struct {
	// Guest is the guest's name.
	Guest string
	// Incarnation tells this boot of the guest from every other; not zero.
	Incarnation uint64
	// Seed makes the fill.
	Seed uint64
	// Region is the memory to be written and checked: whole pages, at least
	// one, and nothing else may write to it. The Keeper owns it from then on.
	Region []byte
	// Alloc returns zeroed memory apart from the region, aligned to pages. Nil
	// means make.
	Alloc func(bytes int) []byte
	// Disks are the guest's disks, in an order that stays the same: their blocks
	// are numbered through, from the first disk's first block on.
	Disks []KeptDisk
	// FlushEvery is how many block writes there are to a disk between two flushes of
	// it; 0 means 64.
	FlushEvery int
}

// KeptDisk is one disk of a guest.
type KeptDisk struct {
	// Name is what the guest calls it, such as "vda".
	Name string
	// Device is the disk, and Size its length in bytes, of which MaxDisk and no more
	// is used.
	Device BlockDevice
	Size   int64
	// Used says how many bytes were filled before the guest booted (FillDisk); 0
	// means that the disk came empty, or as an earlier boot has left it.
	Used int64
}

// MaxDisk bounds the part of a disk that is written and checked, in bytes.
const MaxDisk = 4 << 30

// Keeper writes pages and blocks, knows what should be in them, and checks.
// Make it with NewKeeper. Its methods may be called from any goroutine; a
// check makes writers wait, so that it sees one moment.
type Keeper struct {
	cfg    KeeperConfig
	seals  *seals
	work   sync.Mutex // held for a write and for a check; ordered before seals.mu
	pages  *ledger    // guarded by work
	region []byte     // guarded by work
	disks  *disks     // guarded by work; nil without any
}

// NewKeeper writes the first version of every page of the region and looks at
// the first block of each disk.
func NewKeeper(cfg KeeperConfig) (*Keeper, error) {
	if len(cfg.Region) == 0 || len(cfg.Region)%PageSize != 0 {
		return nil, fmt.Errorf("oracle: region of %d bytes: want whole pages, at least one", len(cfg.Region))
	}
	if cfg.Incarnation == 0 {
		return nil, errors.New("oracle: an incarnation of zero")
	}
	if cfg.Alloc == nil {
		cfg.Alloc = func(n int) []byte { return make([]byte, n) }
	}
	if cfg.FlushEvery <= 0 {
		cfg.FlushEvery = 64
	}
	k := &Keeper{cfg: cfg, region: cfg.Region, seals: newSeals(cfg.Incarnation, cfg.Alloc(PageSize))}
	k.pages = newLedger(uint64(len(cfg.Region)/PageSize), cfg.Incarnation, cfg.Alloc)
	if len(cfg.Disks) > 0 {
		d, err := newDisks(cfg, k.seals)
		if err != nil {
			return nil, err
		}
		k.disks = d
	}
	for i := range k.pages.count {
		k.write(i)
	}
	return k, nil
}

// Pages is how many pages the region has.
func (k *Keeper) Pages() uint64 { return k.pages.count }

// Blocks is how many blocks of all disks are written and checked.
func (k *Keeper) Blocks() uint64 {
	if k.disks == nil {
		return 0
	}
	return k.disks.ledger.count
}

// DiskBlocks is how many blocks of each disk are written and checked.
func (k *Keeper) DiskBlocks() []uint64 {
	if k.disks == nil {
		return nil
	}
	var counts []uint64
	for _, d := range k.disks.list {
		counts = append(counts, d.count)
	}
	return counts
}

// Guest is the guest's name.
func (k *Keeper) Guest() string { return k.cfg.Guest }

// WritePage writes the next version of page i, having checked the one that is
// there.
func (k *Keeper) WritePage(i uint64) {
	k.work.Lock()
	defer k.work.Unlock()
	var fs Findings
	k.checkPage(i, false, &fs)
	k.keep(fs)
	k.write(i)
}

// keep adds findings to those that every later report names.
func (k *Keeper) keep(fs Findings) {
	for _, f := range fs.List {
		k.seals.add(f)
	}
}

// write writes the next version of page i.
func (k *Keeper) write(i uint64) {
	version := k.pages.bump("page", i, k.seals.now().Pages, k.seals.add)
	number, chain := k.seals.write(pageMagic, i, version)
	record{pageMagic, i, version, number, k.cfg.Incarnation, chain}.put(k.page(i), k.cfg.Seed)
}

func (k *Keeper) page(i uint64) []byte { return k.region[i*PageSize:][:PageSize] }

// WriteBlock writes the next version of block i, having read back the one that
// is there, and flushes when it is time. An error of the disk is a finding and
// is returned as well.
func (k *Keeper) WriteBlock(i uint64) error {
	if k.disks == nil {
		return errors.New("oracle: the guest has no disk")
	}
	k.work.Lock()
	defer k.work.Unlock()
	return k.disks.write(i)
}

// Flush makes the disks put all that was written on stable storage.
func (k *Keeper) Flush() error {
	if k.disks == nil {
		return nil
	}
	k.work.Lock()
	defer k.work.Unlock()
	return k.disks.flush()
}

// Reads says how long reads of one block took since the last ResetReads, by the
// guest's clock: those before each write.
func (k *Keeper) Reads() RoundTrip {
	if k.disks == nil {
		return RoundTrip{}
	}
	k.work.Lock()
	defer k.work.Unlock()
	return k.disks.reads.times()
}

// ResetReads forgets how long reads took until now.
func (k *Keeper) ResetReads() {
	if k.disks == nil {
		return
	}
	k.work.Lock()
	defer k.work.Unlock()
	k.disks.reads = histogram{}
}

// Tick notes one tick. Call it each TickPeriod with the guest's monotonic clock
// and its wall clock, each from any fixed start; never twice for one tick, and
// not to catch up on time in which the guest stood still.
func (k *Keeper) Tick(mono, wall time.Duration) { k.seals.tick(mono, wall) }

// Answer counts one answer to a ping and returns what to tell. It never waits
// for a check.
func (k *Keeper) Answer() Seal { return k.seals.answer() }

// Seal returns the seal and counts nothing.
func (k *Keeper) Seal() Seal { return k.seals.now() }

// Verify makes the writers wait and checks every page, block, ledger page and
// the seal. When ctx ends first, the report says so in Error and is not OK.
func (k *Keeper) Verify(ctx context.Context) Report {
	k.work.Lock()
	defer k.work.Unlock()
	start := time.Now()
	r := Report{Schema: ReportSchema, Guest: k.cfg.Guest}
	r.Seal = k.seals.verify(&r.Findings)
	tables, doubtful := k.pages.verify("page", r.Seal.Pages, &r.Findings)
	r.Tables = tables
	err := k.verifyPages(ctx, doubtful, &r)
	if err == nil && k.disks != nil {
		err = k.disks.verify(ctx, &r)
	}
	k.verifyLast(r.Seal, &r.Findings)
	if err != nil {
		r.Error = err.Error()
	}
	r.OK = err == nil && r.Findings.Total() == 0
	r.Took = time.Since(start)
	return r
}

func (k *Keeper) verifyPages(ctx context.Context, doubtful map[uint64]bool, r *Report) error {
	for i := range k.pages.count {
		if i%256 == 0 && ctx.Err() != nil {
			return fmt.Errorf("checked %d of %d pages: %w", i, k.pages.count, context.Cause(ctx))
		}
		k.checkPage(i, doubtful[i/ledgerFan], &r.Findings)
		r.Pages++
	}
	return nil
}

// checkPage adds what is wrong with page i. With a ledger page in doubt only
// what the page says about itself is held against it.
func (k *Keeper) checkPage(i uint64, doubtful bool, fs *Findings) {
	want := k.pages.version(i)
	got, shape := examine(k.page(i), pageMagic, k.cfg.Incarnation, k.cfg.Seed)
	f := Finding{Index: i, Want: want, Got: got.version}
	switch {
	case shape == shapeZero:
		f.Kind = LostPage
	case shape == shapeTorn:
		f.Kind = TornPage
	case got.incarnation != k.cfg.Incarnation:
		f.Kind, f.Detail = MisplacedPage, "of another guest"
	case got.index != i:
		f.Kind, f.Want, f.Got, f.Detail = MisplacedPage, i, got.index, "of another place"
	case got.version < want && !doubtful:
		f.Kind, f.Detail = StalePage, fmt.Sprintf("of write %d", got.number)
	case got.version > want && !doubtful:
		f.Kind, f.Detail = FuturePage, fmt.Sprintf("of write %d", got.number)
	default:
		return
	}
	fs.Add(f)
}

// verifyLast follows the chain to the last page that was written: it has to be
// there and to end in the seal's chain.
func (k *Keeper) verifyLast(seal Seal, fs *Findings) {
	last, chain := k.seals.lastWrite()
	if last.magic != pageMagic || last.index >= k.pages.count {
		return
	}
	got, shape := examine(k.page(last.index), pageMagic, k.cfg.Incarnation, k.cfg.Seed)
	if number := seal.Pages + seal.Blocks; shape != shapeWhole || got.number != number || got.chain != chain {
		fs.Add(Finding{Kind: StaleSeal, Index: last.index, Want: number, Got: got.number,
			Detail: "the page that was written last does not hold the last write"})
	}
}
