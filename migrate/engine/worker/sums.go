package worker

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"fmt"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// ramSums is the export with the fingerprints of the pages of wholeRAM: sumSize bytes for each page, in the same order, of what
// it holds when it is asked for.
const (
	ramSums = "ram-sums"
	sumSize = 16
)

// sumsConns are the connections for it, and sumsWindow how much of it is asked for ahead, in bytes.
const (
	sumsConns  = 2
	sumsWindow = 1 << 20
)

// sumsPiece is the most that may be asked for at once: the fingerprints of 16 MiB of small pages.
const sumsPiece = 64 << 10

// summer makes fingerprints: the tag of AES-GCM over a page (GMAC), under a key that only the two agents of one migration have.
//
// Two pages that differ have the same one with a probability of 2^-120 for pages of 4 KiB and 2^-111 for 2 MiB, whatever they
// hold and whoever chose it: a guest does not get to know the key, nor ever a fingerprint. The same nonce all the time is fine
// for that. It is several times as fast as SHA-256 where the processor has AES, and so decides up to which link reuse pays.
type summer struct {
	aead  cipher.AEAD
	nonce [12]byte
}

// newSummer takes the migration's secret.
func newSummer(token string) (*summer, error) {
	key := sha256.Sum256([]byte("vmmigrate " + ramSums + "\x00" + token))
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil { // where only what FIPS 140 approves is allowed
		return nil, fmt.Errorf("fingerprints of pages: %w", err)
	}
	return &summer{aead: aead}, nil
}

// sum puts the fingerprint of a page into the sumSize bytes of to.
func (s *summer) sum(to, page []byte) { s.aead.Seal(to[:0:sumSize], s.nonce[:], nil, page) }

// sumsAt is where the fingerprint of a page stands in the export.
func (m *memory) sumsAt(block, page int) int64 {
	n := page
	for _, p := range m.parts[:block] {
		n += p.Pages()
	}
	return int64(n) * sumSize
}

// sumsDevice shows the fingerprints of memory to the NBD server. It reads the files, and so fills no hole.
type sumsDevice struct {
	ram    device // not embedded: it knows more ways to be read, all of which give pages
	summer *summer
	bufs   *buffers
}

func newSumsDevice(d device, s *summer) *sumsDevice {
	piece := int64(pieceSize)
	for _, p := range d.m.parts {
		piece = max(piece, p.PageSize)
	}
	return &sumsDevice{d, s, newBuffers(int(piece))}
}

func (d *sumsDevice) WriteAt([]byte, int64) (int, error) { return 0, errReadOnly }
func (d *sumsDevice) Sync() error                        { return nil }
func (d *sumsDevice) Size() (int64, error)               { return d.ram.m.sumsAt(len(d.ram.m.parts), 0), nil }

func (d *sumsDevice) ReadAt(b []byte, off int64) (int, error) {
	return d.ReadAtContext(context.Background(), b, off)
}

// ReadAtContext implements nbd.ContextBackend. What is asked for are whole fingerprints: the export's MinBlock sees to that.
func (d *sumsDevice) ReadAtContext(ctx context.Context, b []byte, off int64) (int, error) {
	if off%sumSize != 0 || len(b)%sumSize != 0 {
		return 0, fmt.Errorf("%d bytes at %d are not whole fingerprints", len(b), off)
	}
	held := d.bufs.get()
	defer d.bufs.put(held)
	done := 0
	for i := range d.ram.m.parts {
		first, end := d.ram.m.sumsAt(i, 0), d.ram.m.sumsAt(i+1, 0)
		lo, hi := max(off, first), min(off+int64(len(b)), end)
		if lo >= hi {
			continue
		}
		if err := d.sumRun(ctx, i, int((lo-first)/sumSize), b[lo-off:hi-off], *held); err != nil {
			return done, err
		}
		done += int(hi - lo)
	}
	return done, nil
}

// sumRun fills b with the fingerprints of a block's pages from page on.
func (d *sumsDevice) sumRun(ctx context.Context, block, page int, b, buf []byte) error {
	p := &d.ram.m.parts[block]
	most := len(buf) / int(p.PageSize)
	for len(b) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(most, len(b)/sumSize)
		pages, at := buf[:int64(n)*p.PageSize], int64(page)*p.PageSize
		if _, err := p.file.ReadAt(pages, p.base+at); err != nil {
			return err
		}
		if d.ram.sent != nil { // the destination has these bytes, or asks for the page
			d.ram.sent.Sent(block, at, pages)
		}
		for i := range n {
			d.summer.sum(b[i*sumSize:(i+1)*sumSize], pages[int64(i)*p.PageSize:int64(i+1)*p.PageSize])
		}
		b, page = b[n*sumSize:], page+n
	}
	return nil
}

// zeroSums are the fingerprints of an empty page of each block.
func (s *summer) zeroSums(blocks []ram.Block) [][sumSize]byte {
	out := make([][sumSize]byte, len(blocks))
	for i, b := range blocks {
		s.sum(out[i][:], make([]byte, b.PageSize))
	}
	return out
}
