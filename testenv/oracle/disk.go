package oracle

import (
	"context"
	"fmt"
)

// disk writes and checks blocks. The Keeper's lock guards all of it.
type disk struct {
	dev         BlockDevice
	ledger      *ledger
	seals       *seals
	incarnation uint64
	seed        uint64
	flushEvery  int
	unflushed   uint64
	block       []byte            // one block, aligned
	chunk       []byte            // diskChunk bytes, aligned
	unsure      map[uint64]uint64 // blocks whose write failed: the version they may still have
	foreign     bool              // the disk came with contents that are not ours
}

// diskChunk is how much of the disk is read at once.
const diskChunk = 1 << 20

// maxUnsure bounds how many blocks with a failed write are remembered.
const maxUnsure = 4096

func newDisk(cfg KeeperConfig, s *seals) (*disk, error) {
	blocks := min(cfg.DiskSize, MaxDisk) / PageSize
	if blocks < 1 {
		return nil, fmt.Errorf("oracle: a disk of %d bytes has no whole block", cfg.DiskSize)
	}
	d := &disk{dev: cfg.Disk, seals: s, incarnation: cfg.Incarnation, seed: cfg.Seed, flushEvery: cfg.FlushEvery,
		ledger: newLedger(uint64(blocks), cfg.Incarnation, cfg.Alloc),
		block:  cfg.Alloc(PageSize), chunk: cfg.Alloc(diskChunk), unsure: make(map[uint64]uint64)}
	if _, err := d.dev.ReadAt(d.block, 0); err != nil {
		return nil, fmt.Errorf("oracle: read the first block of the disk: %w", err)
	}
	_, shape := examine(d.block, blockMagic, cfg.Incarnation, cfg.Seed)
	d.foreign = shape == shapeTorn
	return d, nil
}

// write writes the next version of block i.
func (d *disk) write(i uint64) error {
	if _, err := d.dev.ReadAt(d.block, int64(i)*PageSize); err != nil {
		return d.failed("read before write", i, err)
	}
	var fs Findings
	d.checkBlock(i, d.block, false, &fs)
	for _, f := range fs.List {
		d.seals.add(f)
	}
	before := d.ledger.version(i)
	version := d.ledger.bump("disk", i, d.seals.now().Blocks, d.seals.add)
	number, chain := d.seals.write(blockMagic, i, version)
	record{blockMagic, i, version, number, d.incarnation, chain}.put(d.block, d.seed)
	if _, err := d.dev.WriteAt(d.block, int64(i)*PageSize); err != nil {
		if len(d.unsure) < maxUnsure {
			d.unsure[i] = before
		}
		return d.failed("write", i, err)
	}
	delete(d.unsure, i)
	d.unflushed++
	if d.unflushed >= uint64(d.flushEvery) {
		return d.flush()
	}
	return nil
}

func (d *disk) flush() error {
	if d.unflushed == 0 {
		return nil
	}
	if err := d.dev.Sync(); err != nil {
		return d.failed("flush", 0, err)
	}
	d.unflushed = 0
	return nil
}

// failed keeps an error of the disk as a finding.
func (d *disk) failed(op string, i uint64, err error) error {
	err = fmt.Errorf("oracle: %s block %d: %w", op, i, err)
	d.seals.add(Finding{Kind: DiskError, Index: i, Detail: err.Error()})
	return err
}

// verify reads the whole disk back.
func (d *disk) verify(ctx context.Context, r *Report) error {
	tables, doubtful := d.ledger.verify("disk", r.Seal.Blocks, &r.Findings)
	r.Tables += tables
	r.Unflushed = d.unflushed
	for i := uint64(0); i < d.ledger.count; {
		if ctx.Err() != nil {
			return fmt.Errorf("checked %d of %d blocks: %w", i, d.ledger.count, context.Cause(ctx))
		}
		n := min(diskChunk/PageSize, d.ledger.count-i)
		if err := d.read(i, d.chunk[:n*PageSize]); err != nil {
			r.Findings.Add(Finding{Kind: DiskError, Index: i, Detail: err.Error()})
			return err
		}
		for j := range n {
			d.checkBlock(i+j, d.chunk[j*PageSize:][:PageSize], doubtful[(i+j)/ledgerFan], &r.Findings)
			if d.ledger.version(i+j) == 0 {
				r.Unwritten++
			}
		}
		r.Blocks += n
		i += n
	}
	return nil
}

// read reads blocks, and says it in full when the disk has fewer than it had.
func (d *disk) read(i uint64, b []byte) error {
	if n, err := d.dev.ReadAt(b, int64(i)*PageSize); n < len(b) {
		return fmt.Errorf("oracle: read %d bytes of disk at block %d, got %d: %w", len(b), i, n, err)
	}
	return nil
}

// checkBlock adds what is wrong with block i, read into b.
func (d *disk) checkBlock(i uint64, b []byte, doubtful bool, fs *Findings) {
	want := d.ledger.version(i)
	got, shape := examine(b, blockMagic, d.incarnation, d.seed)
	ours := shape == shapeWhole && got.incarnation == d.incarnation
	if old, ok := d.unsure[i]; ok && (ours && got.index == i && got.version == old || old == 0 && !ours) {
		return
	}
	f := Finding{Index: i, Want: want, Got: got.version}
	switch {
	case want == 0 && !ours && (shape != shapeTorn || d.foreign || doubtful):
		return // as it came
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
	case got.version < want && !doubtful:
		f.Kind, f.Detail = LostWrite, fmt.Sprintf("has write %d", got.number)
	case got.version > want && !doubtful:
		f.Kind, f.Detail = FutureBlock, fmt.Sprintf("has write %d", got.number)
	default:
		return
	}
	fs.Add(f)
}
