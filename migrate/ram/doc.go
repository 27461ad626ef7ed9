// Package ram has the words in which the RAM of a guest is spoken of: blocks, pages, extents and sets of pages. They are
// values without I/O; whose memory they describe, and who reads or writes it, is told by those who use them.
//
//	guest RAM:  block 0 "pc.ram"            block 1 …
//	            |page|page|page|page|...    a page is the block's own: 4 KiB, or 2 MiB where huge pages back it
//	Bitmap:       1    0    0    1          one bit for each page of one block
//	Set:        one Bitmap for each block, in the blocks' order
//	Extent:     a run of bytes of one block
//
// A set bit means whatever its owner says: dirty, missing, sent. Where it stands for "dirty" or "missing" an unknown page
// is set: that is the safe side.
//
// A Bitmap and a Set are not safe for use by several goroutines.
package ram
