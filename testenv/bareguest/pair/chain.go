package pair

import "io"

// part is one piece of a chain.
type part struct {
	io.ReaderAt
	size int64
}

// chain is several pieces read as one.
type chain []part

// ReadAt reads across the pieces.
func (c chain) ReadAt(p []byte, off int64) (n int, err error) {
	for _, part := range c {
		if off >= part.size {
			off -= part.size
			continue
		}
		b := p[n:min(len(p), n+int(part.size-off))]
		read, err := part.ReaderAt.ReadAt(b, off)
		n += read
		if read < len(b) {
			return n, err
		}
		if n == len(p) {
			return n, nil
		}
		off = 0
	}
	return n, io.EOF
}
