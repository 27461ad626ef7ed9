package storage

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// Limits of what is taken from qemu-img.
const (
	maxOutput = 64 << 20
	maxLayers = 200
	maxSize   = 1 << 60
	maxName   = 4096
)

// infoJSON is what concerns us of one object of qemu-img info. What it has besides differs from version to version.
type infoJSON struct {
	Filename      *string `json:"filename"`
	Format        *string `json:"format"`
	VirtualSize   *int64  `json:"virtual-size"`
	ActualSize    *int64  `json:"actual-size"`
	ClusterSize   *int64  `json:"cluster-size"`
	Encrypted     bool    `json:"encrypted"`
	Backing       string  `json:"backing-filename"`
	FullBacking   string  `json:"full-backing-filename"`
	BackingFormat string  `json:"backing-filename-format"`
	Specific      *struct {
		Type string `json:"type"`
		Data struct {
			Compat        string          `json:"compat"`
			LazyRefcounts bool            `json:"lazy-refcounts"`
			ExtendedL2    bool            `json:"extended-l2"`
			DataFile      string          `json:"data-file"`
			Encrypt       json.RawMessage `json:"encrypt"`
		} `json:"data"`
	} `json:"format-specific"`
}

// parseInfo reads what qemu-img info says in JSON: one object, or with --backing-chain an array of them.
func parseInfo(text []byte) ([]Layer, error) {
	text = bytes.TrimSpace(text)
	var infos []infoJSON
	if len(text) > 0 && text[0] == '{' {
		infos = make([]infoJSON, 1)
		if err := json.Unmarshal(text, &infos[0]); err != nil {
			return nil, fmt.Errorf("what qemu-img says: %w", err)
		}
	} else if err := json.Unmarshal(text, &infos); err != nil {
		return nil, fmt.Errorf("what qemu-img says: %w", err)
	}
	if len(infos) == 0 || len(infos) > maxLayers {
		return nil, fmt.Errorf("qemu-img tells of %d layers, which are not 1 to %d", len(infos), maxLayers)
	}
	out := make([]Layer, len(infos))
	for i, x := range infos {
		var err error
		if out[i], err = x.layer(); err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
	}
	return out, nil
}

// layer refuses what lacks one of the things that all images have.
func (x infoJSON) layer() (Layer, error) {
	if x.Filename == nil || x.Format == nil || x.VirtualSize == nil || *x.Filename == "" || *x.Format == "" {
		return Layer{}, errors.New("qemu-img does not tell its name, format and size")
	}
	l := Layer{Path: *x.Filename, Format: *x.Format, VirtualSize: *x.VirtualSize, Encrypted: x.Encrypted,
		Backing: x.Backing, BackingFormat: x.BackingFormat}
	if x.FullBacking != "" {
		l.Backing = x.FullBacking
	}
	if x.ActualSize != nil { // block devices have none
		l.Allocated = *x.ActualSize
	}
	if x.ClusterSize != nil {
		l.ClusterSize = *x.ClusterSize
	}
	if s := x.Specific; s != nil && s.Type == formatQcow2 {
		l.Compat, l.LazyRefcounts, l.ExtendedL2, l.DataFile = s.Data.Compat, s.Data.LazyRefcounts, s.Data.ExtendedL2, s.Data.DataFile
		l.Encrypted = l.Encrypted || len(s.Data.Encrypt) > 0
	}
	for _, n := range []int64{l.VirtualSize, l.Allocated, l.ClusterSize} {
		if n < 0 || n > maxSize {
			return Layer{}, fmt.Errorf("a size of %d bytes", n)
		}
	}
	for _, s := range []string{l.Path, l.Format, l.Backing, l.BackingFormat, l.Compat, l.DataFile} {
		if len(s) > maxName {
			return Layer{}, fmt.Errorf("a name of %d bytes", len(s))
		}
	}
	return l, nil
}
