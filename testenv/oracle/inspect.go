package oracle

// Record is what a page or a disk block says about itself.
type Record struct {
	// Block is true for a disk block, false for a page of memory.
	Block bool
	// Index is which one, Version how often it was written, Incarnation by
	// which boot of a guest.
	Index, Version, Incarnation uint64
}

// Inspect reads one page of a guest's RAM or one block of its disk from
// outside. It is for tests that spoil a guest on purpose and have to know
// where: it looks at the header and does not check the rest. The second result
// is false for anything that is no record.
func Inspect(page []byte) (Record, bool) {
	if len(page) < PageSize {
		return Record{}, false
	}
	r := header(page)
	ok := r.magic == pageMagic || r.magic == blockMagic
	return Record{Block: r.magic == blockMagic, Index: r.index, Version: r.version, Incarnation: r.incarnation}, ok
}
