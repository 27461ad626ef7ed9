package oracle

import (
	"context"
	"fmt"
	"time"
)

// disks write and check the blocks of all disks. One ledger has them all, numbered
// through, so that a block of one disk on another shows as misplaced. The Keeper's
// lock guards all of it.
type disks struct {
	list        []*disk
	ledger      *ledger
	seals       *seals
	incarnation uint64
	seed        uint64
	flushEvery  int
	block       []byte            // one block, aligned
	fill        []byte            // one block to compare with
	chunk       []byte            // diskChunk bytes, aligned
	unsure      map[uint64]uint64 // blocks whose write failed: the version they may still have
	reads       histogram         // how long reads of one block took
}

// disk is one of them.
type disk struct {
	KeptDisk
	number       int    // which one it is, from 0 on
	first, count uint64 // its blocks, among all
	unflushed    uint64
	foreign      bool // it came with contents that are not ours
	found        uint64
}

// diskChunk is how much of a disk is read at once.
const diskChunk = 1 << 20

// maxUnsure bounds how many blocks with a failed write are remembered.
const maxUnsure = 4096

func newDisks(cfg KeeperConfig, s *seals) (*disks, error) {
	d := &disks{seals: s, incarnation: cfg.Incarnation, seed: cfg.Seed, flushEvery: cfg.FlushEvery,
		block: cfg.Alloc(PageSize), fill: cfg.Alloc(PageSize), chunk: cfg.Alloc(diskChunk), unsure: make(map[uint64]uint64)}
	var blocks uint64
	for i, k := range cfg.Disks {
		one := &disk{KeptDisk: k, number: i, first: blocks, count: uint64(min(k.Size, MaxDisk) / PageSize)}
		if one.count < 1 || k.Size < 0 {
			return nil, fmt.Errorf("oracle: disk %s of %d bytes has no whole block", k.Name, k.Size)
		}
		if err := d.look(one); err != nil {
			return nil, err
		}
		blocks += one.count
		d.list = append(d.list, one)
	}
	d.ledger = newLedger(blocks, cfg.Incarnation, cfg.Alloc)
	return d, nil
}

// look finds out whether a disk came with contents that are not ours.
func (d *disks) look(one *disk) error {
	if _, err := one.Device.ReadAt(d.block, 0); err != nil {
		return fmt.Errorf("oracle: read the first block of disk %s: %w", one.Name, err)
	}
	magic := blockMagic
	if filledBlock(one.Size, one.Used, 0) {
		magic = fillMagic
	}
	_, shape := examine(d.block, magic, d.incarnation, d.seed)
	one.foreign = shape == shapeTorn && one.Used == 0
	return nil
}

// at finds the disk of block i, and which of its own that is.
func (d *disks) at(i uint64) (*disk, uint64) {
	for _, one := range d.list {
		if i < one.first+one.count {
			return one, i - one.first
		}
	}
	return nil, 0 // not reached: callers choose among ledger.count
}

// write writes the next version of block i.
func (d *disks) write(i uint64) error {
	if i >= d.ledger.count {
		return fmt.Errorf("oracle: write block %d of %d", i, d.ledger.count)
	}
	one, own := d.at(i)
	begun := time.Now()
	if _, err := one.Device.ReadAt(d.block, int64(own)*PageSize); err != nil {
		return d.failed(one, "read before write", own, err)
	}
	d.reads.add(time.Since(begun))
	var fs Findings
	d.checkBlock(one, i, d.block, false, &fs)
	for _, f := range fs.List {
		one.found++
		d.seals.add(f)
	}
	before := d.ledger.version(i)
	version := d.ledger.bump("disk", i, d.seals.now().Blocks, d.seals.add)
	number, chain := d.seals.write(blockMagic, i, version)
	record{blockMagic, i, version, number, d.incarnation, chain}.put(d.block, d.seed)
	if _, err := one.Device.WriteAt(d.block, int64(own)*PageSize); err != nil {
		if len(d.unsure) < maxUnsure {
			d.unsure[i] = before
		}
		return d.failed(one, "write", own, err)
	}
	delete(d.unsure, i)
	one.unflushed++
	if one.unflushed >= uint64(d.flushEvery) {
		return d.flushOne(one)
	}
	return nil
}

func (d *disks) flush() error {
	for _, one := range d.list {
		if err := d.flushOne(one); err != nil {
			return err
		}
	}
	return nil
}

func (d *disks) flushOne(one *disk) error {
	if one.unflushed == 0 {
		return nil
	}
	if err := one.Device.Sync(); err != nil {
		return d.failed(one, "flush", 0, err)
	}
	one.unflushed = 0
	return nil
}

// failed keeps an error of a disk as a finding.
func (d *disks) failed(one *disk, op string, own uint64, err error) error {
	err = fmt.Errorf("oracle: %s block %d of disk %s: %w", op, own, one.Name, err)
	one.found++
	d.seals.add(Finding{Kind: DiskError, Disk: one.Name, Index: own, Detail: err.Error()})
	return err
}

// verify reads all disks back.
func (d *disks) verify(ctx context.Context, r *Report) error {
	tables, doubtful := d.ledger.verify("disk", r.Seal.Blocks, &r.Findings)
	r.Tables += tables
	for _, one := range d.list {
		err := d.verifyOne(ctx, one, doubtful, r)
		last := r.Disks[len(r.Disks)-1]
		r.Blocks, r.Unwritten, r.Unflushed = r.Blocks+last.Blocks, r.Unwritten+last.Unwritten, r.Unflushed+last.Unflushed
		if err != nil {
			return err
		}
	}
	return nil
}

// verifyOne reads one disk back and adds its report.
func (d *disks) verifyOne(ctx context.Context, one *disk, doubtful map[uint64]bool, r *Report) (err error) {
	total := r.Findings.Total()
	s := DiskReport{Name: one.Name, Unflushed: one.unflushed}
	defer func() {
		s.Findings = one.found + r.Findings.Total() - total
		s.OK = err == nil && s.Findings == 0
		r.Disks = append(r.Disks, s)
	}()
	for own := uint64(0); own < one.count; {
		if ctx.Err() != nil {
			return fmt.Errorf("checked %d of %d blocks of disk %s: %w", own, one.count, one.Name, context.Cause(ctx))
		}
		n := min(diskChunk/PageSize, one.count-own)
		if err := one.read(own, d.chunk[:n*PageSize]); err != nil {
			r.Findings.Add(Finding{Kind: DiskError, Disk: one.Name, Index: own, Detail: err.Error()})
			return err
		}
		for j := range n {
			i := one.first + own + j
			d.checkBlock(one, i, d.chunk[j*PageSize:][:PageSize], doubtful[i/ledgerFan], &r.Findings)
			if d.ledger.version(i) > 0 {
				continue
			}
			s.Unwritten++
			if filledBlock(one.Size, one.Used, own+j) {
				s.Filled++
			}
		}
		s.Blocks += n
		own += n
	}
	return nil
}

// read reads blocks, and says it in full when the disk has fewer than it had.
func (one *disk) read(own uint64, b []byte) error {
	if n, err := one.Device.ReadAt(b, int64(own)*PageSize); n < len(b) {
		return fmt.Errorf("oracle: read %d bytes of disk %s at block %d, got %d: %w", len(b), one.Name, own, n, err)
	}
	return nil
}

// checkBlock adds what is wrong with block i, read into b.
func (d *disks) checkBlock(one *disk, i uint64, b []byte, doubtful bool, fs *Findings) {
	want := d.ledger.version(i)
	if want == 0 && !doubtful && filledBlock(one.Size, one.Used, i-one.first) {
		d.checkFill(one, i-one.first, b, fs)
		return
	}
	got, shape := examine(b, blockMagic, d.incarnation, d.seed)
	ours := shape == shapeWhole && got.incarnation == d.incarnation
	if old, ok := d.unsure[i]; ok && (ours && got.index == i && got.version == old || old == 0 && !ours) {
		return
	}
	f := Finding{Disk: one.Name, Index: i - one.first, Want: want, Got: got.version}
	switch {
	case want == 0 && !ours && (shape != shapeTorn || one.foreign || doubtful):
		return // as it came
	case shape == shapeTorn && got.magic == fillMagic && want > 0:
		f.Kind, f.Got, f.Detail = LostWrite, 0, "what it was filled with"
	case shape == shapeTorn && got.magic == fillMagic:
		f.Kind, f.Got, f.Detail = MisplacedBlock, got.index, "a filled block"
	case shape == shapeTorn:
		f.Kind = TornBlock
	case !ours && doubtful:
		return
	case shape == shapeZero:
		f.Kind, f.Detail = LostWrite, "zeros"
	case !ours:
		f.Kind, f.Got, f.Detail = LostWrite, 0, "what was there before the guest booted"
	case got.index != i:
		f.Kind, f.Want, f.Got = MisplacedBlock, i, got.index
		f.Detail = "blocks of all disks counted through"
	case got.version < want && !doubtful:
		f.Kind, f.Detail = LostWrite, fmt.Sprintf("has write %d", got.number)
	case got.version > want && !doubtful:
		f.Kind, f.Detail = FutureBlock, fmt.Sprintf("has write %d", got.number)
	default:
		return
	}
	fs.Add(f)
}
