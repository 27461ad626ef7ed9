package postcopy

import (
	"fmt"
	"os"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// Part is where the RAM of a block lies in a file: Block.Size bytes from Offset.
type Part struct {
	File   *os.File
	Offset int64
}

// MissingFromHoles takes every page that is a hole of its file, as a whole or in part, for missing: that is all a new
// pager has to know of one that died. Pages that were zeros at the source, or that the guest has discarded, are among them: the source
// is asked for them again, and zeros are zeros still.
//
// A file on hugetlbfs does not tell its holes by SEEK_DATA. It is mapped and its pages are asked for one by one, none of
// them is touched or made by that.
func MissingFromHoles(parts []Part, blocks []ram.Block) (ram.Set, error) {
	if len(parts) != len(blocks) {
		return nil, fmt.Errorf("%d files for %d RAM blocks", len(parts), len(blocks))
	}
	missing := ram.NewSet(blocks)
	for i, b := range blocks {
		find := missingByExtents
		if size, err := sys.PageSize(parts[i].File); err != nil {
			return nil, fmt.Errorf("page size of RAM block %q: %w", b.Name, err)
		} else if size > int64(os.Getpagesize()) {
			find = missingByContinue
		}
		if err := find(parts[i], b, missing[i]); err != nil {
			return nil, fmt.Errorf("holes of RAM block %q: %w", b.Name, err)
		}
	}
	return missing, nil
}

func missingByExtents(p Part, b ram.Block, missing *ram.Bitmap) error {
	missing.Fill()
	for e, err := range sys.DataExtents(p.File, p.Offset, p.Offset+b.Size) {
		if err != nil {
			return err
		}
		off := e.Off - p.Offset
		lo, hi := (off+b.PageSize-1)/b.PageSize, (off+e.Len)/b.PageSize
		if lo < hi {
			missing.ClearRange(int(lo), int(hi))
		}
	}
	return nil
}
