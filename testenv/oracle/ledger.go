package oracle

import (
	"encoding/binary"
	"fmt"
)

// ledger knows the version of each of count pages (or blocks). It is a tree of
// pages of its own:
//
//	level 2   [ top ]                      generation = writes in all
//	level 1   [ gen gen gen … ] …          entry = generation of the page below
//	level 0   [ ver ver ver … ] [ … ] …    entry = version of a page of the region
//
// A ledger page's generation counts the writes to it. A stale page is one whose
// generation is less than its entry above; the generation of the top is held
// against the seal. Within a page, a sum over all entries and a check over the
// header show one that is torn.
//
//	0  magic | level<<32   8  index   16  generation   24  entry sum
//	32 incarnation         40 check   48  ledgerFan entries
type ledger struct {
	count       uint64
	incarnation uint64
	levels      [][]byte // levels[0] is the widest; the last one is one page
}

const (
	ledgerEntriesAt = 48
	ledgerFan       = (PageSize - ledgerEntriesAt) / 8
	ledgerMagic     = uint64('V') | 'M'<<8 | 'l'<<16 | 'g'<<24
)

// newLedger makes a ledger of versions 0. Its memory comes from alloc, which
// has to return zeroed memory and may be called several times.
func newLedger(count, incarnation uint64, alloc func(int) []byte) *ledger {
	l := &ledger{count: count, incarnation: incarnation}
	for n := max(count, 1); ; {
		n = (n + ledgerFan - 1) / ledgerFan
		level := alloc(int(n) * PageSize)
		for i := range n {
			l.format(level[i*PageSize:][:PageSize], uint64(len(l.levels)), i)
		}
		l.levels = append(l.levels, level)
		if n == 1 {
			return l
		}
	}
}

func (l *ledger) format(page []byte, level, index uint64) {
	binary.LittleEndian.PutUint64(page[0:], ledgerMagic|level<<32)
	binary.LittleEndian.PutUint64(page[8:], index)
	binary.LittleEndian.PutUint64(page[32:], l.incarnation)
	setCheck(page)
}

// check is a hash over a ledger page's header.
func check(page []byte) uint64 {
	at := func(i int) uint64 { return binary.LittleEndian.Uint64(page[i:]) }
	return mix(mix(at(0), at(8), at(16)), at(24), at(32))
}

func setCheck(page []byte) { binary.LittleEndian.PutUint64(page[40:], check(page)) }

// entryHash is what entry number slot adds to its page's sum. Zeros add nothing.
func entryHash(slot, value uint64) uint64 {
	if value == 0 {
		return 0
	}
	return mix(slot, value, golden)
}

func (l *ledger) page(level int, index uint64) []byte {
	return l.levels[level][index*PageSize:][:PageSize]
}

// version is the version that page i should have.
func (l *ledger) version(i uint64) uint64 {
	page := l.page(0, i/ledgerFan)
	return binary.LittleEndian.Uint64(page[ledgerEntriesAt+8*(i%ledgerFan):])
}

// bump notes one more write to page i and returns its new version. writes is
// how many there were before, by the seal. Each ledger page is held against
// the one above it before it changes, since the change would hide that it was
// stale.
func (l *ledger) bump(what string, i, writes uint64, found func(Finding)) (version uint64) {
	version = l.version(i) + 1
	value := version
	for level := range l.levels {
		page, slot := l.page(level, i/ledgerFan), i%ledgerFan
		want := writes
		if level < len(l.levels)-1 {
			want = l.above(level, i/ledgerFan)
		}
		if got := binary.LittleEndian.Uint64(page[16:]); got != want || binary.LittleEndian.Uint64(page[40:]) != check(page) {
			found(Finding{Kind: StaleTable, Index: i / ledgerFan, Want: want, Got: got,
				Detail: fmt.Sprintf("%s ledger, level %d of %d, before a write", what, level, len(l.levels))})
		}
		value = setEntry(page, slot, value)
		i /= ledgerFan
	}
	return version
}

// above is the entry that the level above has for a page.
func (l *ledger) above(level int, index uint64) uint64 {
	up := l.page(level+1, index/ledgerFan)
	return binary.LittleEndian.Uint64(up[ledgerEntriesAt+8*(index%ledgerFan):])
}

// setEntry writes an entry and returns the new generation of its page.
func setEntry(page []byte, slot, value uint64) (generation uint64) {
	entry := page[ledgerEntriesAt+8*slot:][:8]
	old := binary.LittleEndian.Uint64(entry)
	sum := binary.LittleEndian.Uint64(page[24:]) - entryHash(slot, old) + entryHash(slot, value)
	generation = binary.LittleEndian.Uint64(page[16:]) + 1
	binary.LittleEndian.PutUint64(entry, value)
	binary.LittleEndian.PutUint64(page[16:], generation)
	binary.LittleEndian.PutUint64(page[24:], sum)
	setCheck(page)
	return generation
}

// verify checks every page of the ledger; writes is what the seal says. It
// returns how many pages there are and which pages of level 0 are not to be
// believed.
func (l *ledger) verify(what string, writes uint64, fs *Findings) (pages uint64, doubtful map[uint64]bool) {
	doubtful = make(map[uint64]bool)
	for level := len(l.levels) - 1; level >= 0; level-- {
		for i := range uint64(len(l.levels[level]) / PageSize) {
			want := writes
			if level < len(l.levels)-1 {
				want = l.above(level, i)
			}
			if !l.verifyPage(what, level, i, want, fs) && level == 0 {
				doubtful[i] = true
			}
			pages++
		}
	}
	return pages, doubtful
}

// verifyPage checks one page, whose generation should be want.
func (l *ledger) verifyPage(what string, level int, i, want uint64, fs *Findings) bool {
	page := l.page(level, i)
	at := func(off int) uint64 { return binary.LittleEndian.Uint64(page[off:]) }
	detail := fmt.Sprintf("%s ledger, level %d of %d", what, level, len(l.levels))
	var sum uint64
	for slot := range uint64(ledgerFan) {
		sum += entryHash(slot, at(ledgerEntriesAt+8*int(slot)))
	}
	ours := at(0) == ledgerMagic|uint64(level)<<32 && at(8) == i && at(32) == l.incarnation
	switch generation := at(16); {
	case zero(page):
		fs.Add(Finding{Kind: StaleTable, Index: i, Want: want, Detail: detail + ": zeros"})
	case !ours || at(40) != check(page) || at(24) != sum:
		fs.Add(Finding{Kind: TornTable, Index: i, Want: want, Got: generation, Detail: detail})
	case generation < want:
		fs.Add(Finding{Kind: StaleTable, Index: i, Want: want, Got: generation, Detail: detail})
	case generation > want:
		fs.Add(Finding{Kind: StaleTable, Index: i, Want: want, Got: generation,
			Detail: detail + ": newer than what is above it, so that is stale"})
	default:
		return true
	}
	return false
}
