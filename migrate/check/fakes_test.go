package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate"
)

// fakeHost answers from its fields. A query named in fails gives an error, one in hangs waits for its context.
type fakeHost struct {
	uri      string
	facts    migrate.HostFacts
	domains  map[string]migrate.DomainFacts
	machines []string
	cpu      CPUFit
	volumes  map[string]migrate.VolumeFacts
	bridges  []string
	networks []string
	huge     int64
	fails    []string
	hangs    []string
}

func (h *fakeHost) do(ctx context.Context, what string) error {
	if slices.Contains(h.hangs, what) {
		<-ctx.Done()
		return ctx.Err()
	}
	if slices.Contains(h.fails, what) {
		return errors.New(what + " fails")
	}
	return nil
}

func (h *fakeHost) URI() string  { return h.uri }
func (h *fakeHost) Close() error { return nil }

func (h *fakeHost) Facts(ctx context.Context) (migrate.HostFacts, error) {
	return h.facts, h.do(ctx, "facts")
}

func (h *fakeHost) Domain(ctx context.Context, name string) (migrate.DomainFacts, error) {
	if err := h.do(ctx, "domain"); err != nil {
		return migrate.DomainFacts{}, err
	}
	for _, d := range h.domains {
		if d.Name == name || d.UUID == name {
			return d, nil
		}
	}
	return migrate.DomainFacts{}, fmt.Errorf("%s: %w", name, migrate.ErrNoDomain)
}

func (h *fakeHost) State(ctx context.Context, name string) (migrate.GuestState, error) {
	d, err := h.Domain(ctx, name)
	return d.State, err
}

func (h *fakeHost) Domains(ctx context.Context) ([]string, error) {
	return slices.Sorted(maps.Keys(h.domains)), h.do(ctx, "domains")
}

func (h *fakeHost) MachineTypes(ctx context.Context, emulator, arch, virt string) ([]string, error) {
	return h.machines, h.do(ctx, "machines")
}

func (h *fakeHost) CompareCPU(ctx context.Context, _ string) (bool, string, error) {
	return h.cpu.Compatible, h.cpu.Why, h.do(ctx, "cpu")
}

func (h *fakeHost) Volume(ctx context.Context, path string) (migrate.VolumeFacts, error) {
	return h.volumes[path], h.do(ctx, "volume")
}

func (h *fakeHost) HasBridge(_ context.Context, name string) (known, ok bool) {
	return !slices.Contains(h.fails, "bridge"), slices.Contains(h.bridges, name)
}

func (h *fakeHost) Networks(ctx context.Context) ([]string, error) {
	return h.networks, h.do(ctx, "networks")
}

func (h *fakeHost) HugePagesFree(ctx context.Context, _ int64) (int64, error) {
	return h.huge, h.do(ctx, "huge")
}

func (h *fakeHost) Snapshots(ctx context.Context, _ string) (int, error) {
	return 0, h.do(ctx, "snapshots")
}

func (h *fakeHost) BlockJobs(ctx context.Context, _ string) ([]string, error) {
	return nil, h.do(ctx, "blockjobs")
}

func (h *fakeHost) MigrationBlockers(ctx context.Context, _ string) ([]string, error) {
	return nil, h.do(ctx, "blockers")
}

// plainHost offers no more than migrate.Host.
type plainHost struct{ migrate.Host }

// fakeView is a host with a few files, and a network where names and ports answer as they are listed.
type fakeView struct {
	name    string
	files   map[string]string
	stats   map[string]sys.FileInfo
	fsTypes map[string]string
	names   map[string][]string
	ports   map[string]error // by address; what is absent is blocked
	listen  map[int]bool
	uid     uint32
	ptrace  bool
	broken  bool
	ahead   time.Duration
	devices map[string]bool

	mu     sync.Mutex
	dialed []string
}

func (v *fakeView) err() error {
	if v.broken {
		return errors.New(v.name + " is broken")
	}
	return nil
}

func (v *fakeView) String() string { return v.name }

func (v *fakeView) Resolve(_ context.Context, name string) ([]string, error) {
	return v.names[name], v.err()
}

func (v *fakeView) Dial(_ context.Context, addr string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.dialed = append(v.dialed, addr)
	if err, ok := v.ports[addr]; ok {
		return err
	}
	return os.ErrDeadlineExceeded
}

func (v *fakeView) ReadFile(_ context.Context, path string) ([]byte, error) {
	text, ok := v.files[path]
	if !ok && !v.broken {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	return []byte(text), v.err()
}

func (v *fakeView) Stat(_ context.Context, path string) (sys.FileInfo, error) {
	info, ok := v.stats[path]
	if !ok && !v.broken {
		return info, &fs.PathError{Op: "stat", Path: path, Err: fs.ErrNotExist}
	}
	return info, v.err()
}

func (v *fakeView) Filesystem(_ context.Context, path string) (string, error) {
	t, ok := v.fsTypes[path]
	if !ok && !v.broken {
		return "", &fs.PathError{Op: "statfs", Path: path, Err: fs.ErrNotExist}
	}
	return t, v.err()
}

func (v *fakeView) Devices(context.Context) (map[string]bool, error) {
	if v.devices == nil {
		return nil, errors.New("no devices to be seen")
	}
	return v.devices, v.err()
}
func (v *fakeView) Clock(context.Context) (time.Time, error) {
	return noon.Add(v.ahead), v.err()
}
func (v *fakeView) Identity(context.Context) (string, error)        { return v.name, v.err() }
func (v *fakeView) Listeners(context.Context) (map[int]bool, error) { return v.listen, v.err() }
func (v *fakeView) Owner(context.Context) (uint32, bool, error)     { return v.uid, v.ptrace, v.err() }
func noView(context.Context, string) (View, error)                  { return nil, nil }
func opener(byURI map[string]*fakeView) func(context.Context, string) (View, error) {
	return func(_ context.Context, uri string) (View, error) {
		if v := byURI[uri]; v != nil {
			return v, nil
		}
		return nil, nil
	}
}
