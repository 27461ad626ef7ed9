package storage

import (
	"context"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Kind is what is at a path.
type Kind string

// The kinds.
const (
	KindAbsent Kind = "absent"
	KindFile   Kind = "file"
	KindBlock  Kind = "block"
)

// Query asks for an image.
type Query struct {
	Path string `json:"path"`
	// Format is the image's, where it is known. Where it is not it is guessed, and of the layers only the first is told.
	Format string `json:"format,omitempty"`
}

// Image is what is at a path, and what it lies on. Sizes in bytes.
type Image struct {
	Path string `json:"path"`
	Kind Kind   `json:"kind"`
	// Layers are the image and those below it, in this order; none if it is absent.
	Layers []Layer `json:"layers,omitempty"`
	// InUse tells that somebody has it open and holds QEMU's locks on it.
	InUse bool `json:"in_use,omitempty"`
	// Free is the space left on the file system that holds it, or would; Filesystem is the number of that.
	Free       int64  `json:"free"`
	Filesystem uint64 `json:"filesystem"`
}

// Layer is one image of a chain.
type Layer struct {
	Path        string `json:"path"`
	Format      string `json:"format"`
	VirtualSize int64  `json:"virtual_size"`
	// Allocated is what it takes on its file system.
	Allocated int64 `json:"allocated"`
	// The options that it was made with, of qcow2 only.
	ClusterSize   int64  `json:"cluster_size,omitempty"`
	Compat        string `json:"compat,omitempty"`
	LazyRefcounts bool   `json:"lazy_refcounts,omitempty"`
	ExtendedL2    bool   `json:"extended_l2,omitempty"`
	Encrypted     bool   `json:"encrypted,omitempty"`
	DataFile      string `json:"data_file,omitempty"`
	// Backing is the layer below, as a path that starts at the root if QEMU can tell; empty if it is the last.
	Backing       string `json:"backing,omitempty"`
	BackingFormat string `json:"backing_format,omitempty"`
}

// Allocated is what all layers take together.
func (i Image) Allocated() int64 {
	var sum int64
	for _, l := range i.Layers {
		sum += min(l.Allocated, math.MaxInt64-sum)
	}
	return sum
}

// Top is the image itself; ok is false if it is absent.
func (i Image) Top() (l Layer, ok bool) {
	if len(i.Layers) == 0 {
		return Layer{}, false
	}
	return i.Layers[0], true
}

// Describe tells what is at a path of this host. An absent file is no error.
func Describe(ctx context.Context, q Query) (Image, error) {
	const op = "describe"
	if err := checkPath(q.Path); err != nil {
		return Image{}, fail(op, q.Path, err)
	}
	img := Image{Path: q.Path, Kind: KindAbsent}
	folder := filepath.Dir(q.Path)
	st, err := os.Stat(q.Path) // through links, as QEMU opens it
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Lstat(q.Path); err == nil {
			return img, fail(op, q.Path, errDangling)
		}
		return img, fail(op, q.Path, img.measure(folder))
	case err != nil:
		return img, fail(op, q.Path, err)
	case st.Mode().IsRegular():
		img.Kind = KindFile
	case st.Mode()&fs.ModeType == fs.ModeDevice:
		img.Kind = KindBlock
	default:
		return img, fail(op, q.Path, errNoImage)
	}
	if err := img.measure(q.Path); err != nil {
		return img, fail(op, q.Path, err)
	}
	if img.InUse, err = inUse(q.Path); err != nil {
		return img, fail(op, q.Path, err)
	}
	img.Layers, err = layers(ctx, q)
	return img, fail(op, q.Path, err)
}

var (
	errDangling = errors.New("it is a symbolic link to nothing")
	errNoImage  = errors.New("it is neither a file nor a block device")
)

// measure asks the file system that holds path.
func (i *Image) measure(path string) error {
	var f unix.Statfs_t
	if err := unix.Statfs(path, &f); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return err
	}
	i.Free, i.Filesystem = available(f), st.Dev
	return nil
}

// available is what one without privilege may still write: what is reserved for root is for emergencies.
func available(f unix.Statfs_t) int64 {
	size := f.Frsize
	if size <= 0 {
		size = f.Bsize
	}
	if size <= 0 || f.Bavail > uint64(math.MaxInt64/size) {
		return math.MaxInt64
	}
	return int64(f.Bavail) * size
}

// layers asks qemu-img. Only where the format is given are other files opened that the header names.
func layers(ctx context.Context, q Query) ([]Layer, error) {
	args := []string{"info", "-U", "--output=json"}
	if q.Format != "" {
		if err := checkFormat(q.Format); err != nil {
			return nil, err
		}
		args = append(args, "-f", q.Format, "--backing-chain")
	}
	out, err := qemuImg(ctx, nil, append(args, q.Path)...)
	if err != nil {
		return nil, err
	}
	return parseInfo(out)
}
