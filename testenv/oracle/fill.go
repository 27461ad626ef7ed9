package oracle

import (
	"bytes"
	"fmt"
	"io"
)

// A disk may come to its guest partly filled: its used bytes are spread over it in
// extents of FillExtent, with holes between them, and every block there says which
// one it is. The guest knows all of it from four numbers.

// FillExtent is the length of one filled extent, in bytes.
const FillExtent = 1 << 20

// fillMagic marks a block that was filled before its guest booted.
const fillMagic = uint64('V') | 'M'<<8 | 'f'<<16 | 'l'<<24 | recordFormat<<32

// filledExtent tells whether extent e of a disk of that size is filled. Of size bytes used
// are, as evenly as whole extents allow.
func filledExtent(size, used int64, e uint64) bool {
	extents, filled := uint64(size/FillExtent), uint64(used/FillExtent)
	return e < extents && (e+1)*filled/extents > e*filled/extents
}

// filledBlock tells whether a block of a disk is filled.
func filledBlock(size, used int64, block uint64) bool {
	return used > 0 && filledExtent(size, used, block/(FillExtent/PageSize))
}

// CheckFill says why a disk of that size cannot have so many bytes filled, or nil.
func CheckFill(size, used int64) error {
	if used < 0 || used > size || used%FillExtent != 0 {
		return fmt.Errorf("oracle: %d bytes of a disk of %d cannot be filled: want whole MiB, and no more than it has", used, size)
	}
	return nil
}

// putFill writes a filled block of disk number n.
func putFill(b []byte, seed uint64, n int, block uint64) {
	record{magic: fillMagic, index: block, number: uint64(n)}.put(b, seed)
}

// FillDisk fills used bytes of disk number n of a guest, counted from 0, that has that seed.
// What is not filled is left alone: a hole, if w has one there.
func FillDisk(w io.WriterAt, size, used int64, seed uint64, n int) error {
	if err := CheckFill(size, used); err != nil {
		return err
	}
	const blocks = FillExtent / PageSize
	b := make([]byte, FillExtent)
	for e := range uint64(size / FillExtent) {
		if !filledExtent(size, used, e) {
			continue
		}
		for i := range uint64(blocks) {
			putFill(b[i*PageSize:][:PageSize], seed, n, e*blocks+i)
		}
		if _, err := w.WriteAt(b, int64(e)*FillExtent); err != nil {
			return fmt.Errorf("oracle: fill a disk: %w", err)
		}
	}
	return nil
}

// checkFill adds what is wrong with a filled block that the guest never wrote.
func (d *disks) checkFill(one *disk, own uint64, b []byte, fs *Findings) {
	putFill(d.fill, d.seed, one.number, own)
	if bytes.Equal(d.fill, b[:PageSize]) {
		return
	}
	f := Finding{Kind: LostFill, Disk: one.Name, Index: own, Detail: "not what it was filled with"}
	switch r := header(b); {
	case zero(b):
		f.Detail = "zeros"
	case r.magic == blockMagic && r.incarnation == d.incarnation:
		f.Kind, f.Got, f.Detail = FutureBlock, r.version, fmt.Sprintf("has write %d", r.number)
	case r.magic == fillMagic && (r.index != own || r.number != uint64(one.number)):
		f.Kind, f.Want, f.Got = MisplacedBlock, own, r.index
		f.Detail = fmt.Sprintf("filled block of disk %d", r.number)
	}
	fs.Add(f)
}
