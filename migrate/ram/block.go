package ram

import (
	"errors"
	"fmt"
)

// Block is one RAM block of a guest. Both ends of a migration have the same blocks, of the same name, size and page size.
type Block struct {
	// Name is QEMU's, such as pc.ram or ram-node0.
	Name string `json:"name"`
	// Size is in bytes, a whole number of pages.
	Size int64 `json:"size"`
	// PageSize is in bytes, a power of two of at least 4 KiB: the smallest piece that can be tracked and placed.
	PageSize int64 `json:"page_size"`
}

// Pages is the number of pages of the block.
func (b Block) Pages() int { return int(b.Size / b.PageSize) }

// maxBlock bounds what a peer may claim: 64 TiB.
const maxBlock = 1 << 46

// Check refuses a block that cannot be, such as one that a peer made up.
func (b Block) Check() error {
	switch {
	case b.Name == "" || len(b.Name) > 255:
		return errors.New("a RAM block needs a name of 1 to 255 bytes")
	case b.PageSize < 4096 || b.PageSize&(b.PageSize-1) != 0:
		return fmt.Errorf("RAM block %q: page size %d is no power of two from 4096", b.Name, b.PageSize)
	case b.Size <= 0 || b.Size > maxBlock || b.Size%b.PageSize != 0:
		return fmt.Errorf("RAM block %q: size %d is not a positive number of pages of %d bytes", b.Name, b.Size, b.PageSize)
	}
	return nil
}

// Extent is a run of bytes within one block.
type Extent struct {
	Offset int64 `json:"offset"`
	Length int64 `json:"length"`
}

// End is the offset of the first byte behind it.
func (e Extent) End() int64 { return e.Offset + e.Length }
