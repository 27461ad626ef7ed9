package oracle

import "encoding/binary"

// PageSize is the size of a page, of a disk block and of a record, in bytes.
const PageSize = 4096

// A record is one page or one block:
//
//	0     magic      "VMpg" or "VMbk", and 4 bytes of format version
//	8     index      which page or block this is
//	16    version    how often it has been written
//	24    number     the count of writes in the guest, this one included
//	32    incarnation
//	40    chain      the guest's hash chain after this write
//	48    16 zero bytes
//	64    fill       depends on all of the above, in every word
//	4064  24 zero bytes
//	4088  sum        sum64 of bytes 0 to 4088
const (
	recordFillAt  = 64
	recordFillEnd = 4064
	recordSumAt   = 4088

	recordFormat = 1
	pageMagic    = uint64('V') | 'M'<<8 | 'p'<<16 | 'g'<<24 | recordFormat<<32
	blockMagic   = uint64('V') | 'M'<<8 | 'b'<<16 | 'k'<<24 | recordFormat<<32
)

// record is what a page or block says about itself.
type record struct {
	magic       uint64
	index       uint64
	version     uint64
	number      uint64
	incarnation uint64
	chain       uint64
}

// key is what the fill is made from.
func (r record) key(seed uint64) uint64 {
	return mix(r.incarnation^seed, r.index^r.magic, mix(r.version, r.number, r.chain))
}

// put writes the record over all of page.
func (r record) put(page []byte, seed uint64) {
	page = page[:PageSize]
	for i, v := range [...]uint64{r.magic, r.index, r.version, r.number, r.incarnation, r.chain, 0, 0} {
		binary.LittleEndian.PutUint64(page[8*i:], v)
	}
	fill(page[recordFillAt:recordFillEnd], r.key(seed))
	clear(page[recordFillEnd:recordSumAt])
	binary.LittleEndian.PutUint64(page[recordSumAt:], sum64(page[:recordSumAt]))
}

// header reads what the page says about itself, true or not.
func header(page []byte) record {
	at := func(i int) uint64 { return binary.LittleEndian.Uint64(page[i:]) }
	return record{magic: at(0), index: at(8), version: at(16), number: at(24), incarnation: at(32), chain: at(40)}
}

// shape is what a page looks like before anybody says what should be there.
type shape uint8

const (
	shapeTorn  shape = iota // no record: the safe thing to think of garbage
	shapeZero               // all zeros
	shapeWhole              // a record, every byte as its header says
)

// examine reads a page. A record of another incarnation may have been made
// with another seed, so there only the sum is held against it.
func examine(page []byte, magic, incarnation, seed uint64) (record, shape) {
	page = page[:PageSize]
	r := header(page)
	if r.magic != magic {
		if zero(page) {
			return record{}, shapeZero
		}
		return r, shapeTorn
	}
	if binary.LittleEndian.Uint64(page[recordSumAt:]) != sum64(page[:recordSumAt]) {
		return r, shapeTorn
	}
	if r.incarnation == incarnation && !filled(page[recordFillAt:recordFillEnd], r.key(seed)) {
		return r, shapeTorn
	}
	return r, shapeWhole
}
