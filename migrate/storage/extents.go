package storage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// Extent is a run of bytes that a guest sees.
type Extent struct {
	Offset, Length int64
	// Zero reads as zeros. Data is not a hole: it takes space. Depth is the layer that has it, 0 is the image itself.
	// Present tells that one of the layers has it at all.
	Zero, Data, Present bool
	Depth               int
}

// Extents tells where an image has data, from its first byte to its last, without gaps.
func Extents(ctx context.Context, q Query) ([]Extent, error) {
	const op = "map"
	err := errors.Join(checkPath(q.Path), checkFormat(q.Format))
	var out []byte
	if err == nil {
		out, err = qemuImg(ctx, nil, "map", "-U", "--output=json", "-f", q.Format, q.Path)
	}
	if err != nil {
		return nil, fail(op, q.Path, err)
	}
	x, err := parseMap(out)
	return x, fail(op, q.Path, err)
}

// mapJSON is what concerns us of one object of qemu-img map.
type mapJSON struct {
	Start   *int64 `json:"start"`
	Length  *int64 `json:"length"`
	Depth   int    `json:"depth"`
	Present *bool  `json:"present"` // since QEMU 6.1
	Zero    *bool  `json:"zero"`
	Data    *bool  `json:"data"`
}

// parseMap reads what qemu-img map says in JSON, and takes it only if it covers everything once.
func parseMap(text []byte) ([]Extent, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return nil, errors.Join(errors.New("what qemu-img says is no list"), err)
	}
	var out []Extent
	var at int64
	for d.More() {
		var m mapJSON
		if err := d.Decode(&m); err != nil {
			return nil, fmt.Errorf("what qemu-img says: %w", err)
		}
		if m.Start == nil || m.Length == nil || m.Zero == nil || m.Data == nil {
			return nil, errors.New("qemu-img leaves out where an extent is, or what")
		}
		if *m.Start != at || *m.Length <= 0 || *m.Length > maxSize-at || m.Depth < 0 || m.Depth > maxLayers {
			return nil, fmt.Errorf("qemu-img tells of an extent of %d bytes at %d behind one that ends at %d", *m.Length, *m.Start, at)
		}
		at += *m.Length
		out = append(out, Extent{*m.Start, *m.Length, *m.Zero, *m.Data, m.Present == nil || *m.Present, m.Depth})
	}
	if _, err := d.Token(); err != nil {
		return nil, fmt.Errorf("what qemu-img says: %w", err)
	}
	return out, nil
}
