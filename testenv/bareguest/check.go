package bareguest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// State is how far a guest is, as its status page says.
type State struct {
	// Start and End bound the range, in bytes from the beginning of RAM.
	Start, End uint32
	// Cursor is the page being written, in bytes; 0 before the first.
	Cursor uint32
	// Pass is how many passes are complete.
	Pass uint64
	// TSC is the processor's time stamp at the end of the last pass.
	TSC uint64
}

// ErrIntegrity is wrapped by an error of CheckRAM about memory that breaks the
// rule; other errors are of reading it.
var ErrIntegrity = errors.New("bare guest: memory is wrong")

// maxNamed bounds how many pages an error names.
const maxNamed = 8

// ReadState reads the status page. ram is the guest's RAM from its beginning,
// such as its memory-backend-file.
func ReadState(ram io.ReaderAt) (State, error) {
	b := make([]byte, statusSize)
	if _, err := ram.ReadAt(b, StatusAddress); err != nil {
		return State{}, fmt.Errorf("bare guest: read status page: %w", err)
	}
	if [8]byte(b) != statusMagic {
		return State{}, fmt.Errorf("%w: no status page at %#x: the guest has not started, or the page is lost", ErrIntegrity, StatusAddress)
	}
	word := binary.LittleEndian
	s := State{Start: word.Uint32(b[wordStart:]), End: word.Uint32(b[wordEnd:]), Cursor: word.Uint32(b[wordCursor:]),
		Pass: word.Uint64(b[wordPass:]), TSC: word.Uint64(b[wordTSC:])}
	if err := (Config{Start: s.Start, End: s.End, Report: 1}).validate(); err != nil {
		return s, fmt.Errorf("%w: status page: %w", ErrIntegrity, err)
	}
	outside := s.Cursor < s.Start || s.Cursor >= s.End || s.Cursor%PageSize != 0
	if s.Cursor != 0 && outside {
		return s, fmt.Errorf("%w: status page: cursor %#x is outside %#x to %#x", ErrIntegrity, s.Cursor, s.Start, s.End)
	}
	return s, nil
}

// CheckRAM holds the memory of a stopped guest to the rule of the package
// documentation and returns how far it is. An error that wraps ErrIntegrity
// names the first pages that are wrong.
func CheckRAM(ram io.ReaderAt) (State, error) {
	s, err := ReadState(ram)
	if err != nil {
		return s, err
	}
	ended, err := s.ended(ram)
	if err != nil {
		return s, err
	}
	var wrong []string
	count := 0
	err = eachPage(ram, s, func(addr, first, last uint32) {
		if s.right(ended, addr, first, last) {
			return
		}
		if count++; count <= maxNamed {
			wrong = append(wrong, fmt.Sprintf("%#x has %d and %d", addr, first, last))
		}
	})
	if err != nil {
		return s, err
	}
	if count > 0 {
		return s, fmt.Errorf("%w: %d of %d pages, after pass %d with the cursor at %#x: %v",
			ErrIntegrity, count, (s.End-s.Start)/PageSize, s.Pass, s.Cursor, wrong)
	}
	return s, nil
}

// ended says whether the guest is between two passes: the pass is counted, and
// the cursor still on the last page. The first page tells; should that one be
// wrong, all others will be.
func (s State) ended(ram io.ReaderAt) (bool, error) {
	if s.Cursor != s.End-PageSize || s.Start == s.Cursor {
		return false, nil
	}
	var b [4]byte
	if _, err := ram.ReadAt(b[:], int64(s.Start)); err != nil {
		return false, fmt.Errorf("bare guest: read RAM: %w", err)
	}
	return binary.LittleEndian.Uint32(b[:]) == uint32(s.Pass), nil
}

// right says whether a page's two words are what the state allows.
func (s State) right(ended bool, addr, first, last uint32) bool {
	before, after := uint32(s.Pass), uint32(s.Pass)+1
	switch {
	case ended || s.Cursor == 0 || addr > s.Cursor:
		return first == before && last == before
	case addr < s.Cursor:
		return first == after && last == after
	default:
		return first == before && last == before || first == after && (last == before || last == after)
	}
}

// eachPage calls visit with the two words of every page of the range.
func eachPage(ram io.ReaderAt, s State, visit func(addr, first, last uint32)) error {
	buf := make([]byte, 256*PageSize)
	for addr := s.Start; addr < s.End; {
		b := buf[:min(uint32(len(buf)), s.End-addr)]
		if n, err := ram.ReadAt(b, int64(addr)); n < len(b) {
			return fmt.Errorf("bare guest: read RAM at %#x: %w", addr, err)
		}
		for off := 0; off < len(b); off += PageSize {
			first := binary.LittleEndian.Uint32(b[off:])
			last := binary.LittleEndian.Uint32(b[off+PageSize-4:])
			visit(addr+uint32(off), first, last)
		}
		addr += uint32(len(b))
	}
	return nil
}
