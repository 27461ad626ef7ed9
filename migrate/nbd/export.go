package nbd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/pojntfx/go-nbd/pkg/backend"
)

// ErrNoExport says that a server has no export of the name that was asked for.
var ErrNoExport = errors.New("no such export")

// Export is a device that a server offers.
type Export struct {
	// Name is what clients ask for, at most 4096 bytes. The empty name is what they get who name none.
	Name string
	// Description is for people.
	Description string
	// Backend holds the data. It belongs to the caller and must outlive the server's connections.
	Backend backend.Backend
	// ReadOnly refuses whatever would change the data.
	ReadOnly bool
	// Unshared says that the Backend's Sync does not reach what other connections wrote, such as when Find makes a backend
	// for each: clients are then told to use one connection alone.
	Unshared bool
	// MinBlock, PreferredBlock and MaxBlock are in bytes. MinBlock and PreferredBlock are powers of two; 0 stands for 1,
	// 4096 and the server's largest request. Requests that are not whole blocks of MinBlock are refused.
	MinBlock, PreferredBlock, MaxBlock uint32
}

// Catalog is what a server offers. It is asked by many connections at once.
type Catalog interface {
	// List names what is there, for clients that ask. Only Name and Description are looked at.
	List(ctx context.Context) ([]Export, error)
	// Find returns the export of a name, or ErrNoExport.
	Find(ctx context.Context, name string) (Export, error)
}

// Exports is a Catalog that is kept in memory and may change while a server uses it. Its zero value is empty.
type Exports struct {
	mu   sync.Mutex
	list []Export
}

// NewExports makes a Catalog of these.
func NewExports(list ...Export) *Exports { return &Exports{list: slices.Clone(list)} }

// Add offers one more, or another one under the same name. Connections to the earlier one go on with it.
func (e *Exports) Add(x Export) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(slices.DeleteFunc(e.list, func(o Export) bool { return o.Name == x.Name }), x)
}

// Remove offers it no longer. Connections to it go on.
func (e *Exports) Remove(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = slices.DeleteFunc(e.list, func(o Export) bool { return o.Name == name })
}

// List implements Catalog.
func (e *Exports) List(context.Context) ([]Export, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.list), nil
}

// Find implements Catalog.
func (e *Exports) Find(_ context.Context, name string) (Export, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, x := range e.list {
		if x.Name == name {
			return x, nil
		}
	}
	return Export{}, fmt.Errorf("%w: %q", ErrNoExport, name)
}

// device is an Export as one connection uses it: checked, with its size and what its backend can do.
type device struct {
	Export
	size int64

	ctxio  ContextBackend
	sparse SparseReader
	view   Viewer
	direct Receiver
	extent Extenter
	dirty  DirtyExtenter
	zero   ZeroWriter
	trim   Trimmer
	cache  Cacher
}

func newDevice(x Export, largest uint32) (*device, error) {
	if x.Backend == nil {
		return nil, fmt.Errorf("nbd export %q has no backend", x.Name)
	}
	size, err := x.Backend.Size()
	if err != nil || size < 0 {
		return nil, fmt.Errorf("nbd export %q: size %d: %w", x.Name, size, err)
	}
	d := &device{Export: x, size: size}
	if err := d.blocks(largest); err != nil {
		return nil, err
	}
	d.ctxio, _ = x.Backend.(ContextBackend)
	d.sparse, _ = x.Backend.(SparseReader)
	d.view, _ = x.Backend.(Viewer)
	d.direct, _ = x.Backend.(Receiver)
	d.extent, _ = x.Backend.(Extenter)
	d.dirty, _ = x.Backend.(DirtyExtenter)
	d.zero, _ = x.Backend.(ZeroWriter)
	d.trim, _ = x.Backend.(Trimmer)
	d.cache, _ = x.Backend.(Cacher)
	return d, nil
}

// blocks puts the defaults in and refuses sizes that the protocol does not allow.
func (d *device) blocks(largest uint32) error {
	if d.MinBlock == 0 {
		d.MinBlock = 1
	}
	if d.PreferredBlock == 0 {
		d.PreferredBlock = max(4096, d.MinBlock)
	}
	if d.MaxBlock == 0 || d.MaxBlock > largest {
		d.MaxBlock = largest
	}
	powers := d.MinBlock&(d.MinBlock-1) == 0 && d.PreferredBlock&(d.PreferredBlock-1) == 0
	if !powers || d.MinBlock > 64<<10 || d.PreferredBlock < max(512, d.MinBlock) || d.MaxBlock < d.PreferredBlock || d.MaxBlock%d.MinBlock != 0 {
		return fmt.Errorf("nbd export %q: block sizes %d, %d and %d cannot be", d.Name, d.MinBlock, d.PreferredBlock, d.MaxBlock)
	}
	return nil
}

// flags are the export's transmission flags.
func (d *device) flags(structured bool) uint16 {
	f := transHasFlags | transFlush | transFUA | transCache
	if d.ReadOnly {
		f |= transReadOnly
	} else {
		f |= transWriteZeroes | transFastZero
		if d.trim != nil {
			f |= transTrim
		}
	}
	if structured {
		f |= transDF
	}
	if !d.Unshared {
		f |= transMultiConn
	}
	return f
}
