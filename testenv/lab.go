package testenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/testenv/internal/control"
	"github.com/vmmigrate/vmmigrate/testenv/internal/daemon"
	"github.com/vmmigrate/vmmigrate/testenv/internal/layout"
)

// Errors that callers can tell apart.
var (
	// ErrNotUp says that there is no such lab, or only its remains.
	ErrNotUp = errors.New("the lab is not up")
	// ErrUp says that a lab of that name is up already.
	ErrUp = errors.New("the lab is up already")
	// ErrHostDown says that a host's first process has ended.
	ErrHostDown = errors.New("the host is down")
)

// Lab is a handle on a lab that is up. It may be used by several goroutines and
// needs no closing.
type Lab struct {
	state daemon.State
	tie   *tie // nil unless Up returned it and the lab is bound
}

// tie is the descriptor that keeps a bound lab up. It is closed by Down or by the
// end of the process, and by nothing else: a forgotten Lab ends nothing.
type tie struct {
	fd   int
	once sync.Once
}

// cut closes the descriptor.
func (t *tie) cut() {
	if t != nil {
		t.once.Do(func() { _ = unix.Close(t.fd) })
	}
}

// Open returns a handle on the lab of that name, brought up by whatever process.
// Empty name and dir mean the same as in Config. The error wraps ErrNotUp if there
// is none, or if it has ended.
func Open(ctx context.Context, name, dir string) (*Lab, error) {
	if name == "" {
		name = DefaultName
	}
	if err := layout.CheckName(name); err != nil {
		return nil, err
	}
	path := filepath.Join(directory(dir), name)
	state, err := daemon.ReadState(layout.StateFile(path))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("lab %s in %s: %w", name, directory(dir), ErrNotUp)
	case err != nil:
		return nil, fmt.Errorf("lab %s: %w", name, err)
	case !state.Daemon.Alive():
		return nil, fmt.Errorf("lab %s: %w: its daemon has ended (lab down removes the remains)", name, ErrNotUp)
	case !state.Ready:
		return nil, fmt.Errorf("lab %s: %w: it is coming up", name, ErrNotUp)
	}
	return &Lab{state: state}, ctx.Err()
}

// Name is the lab's name.
func (l *Lab) Name() string { return l.state.Plan.Name }

// Dir is the lab's own directory.
func (l *Lab) Dir() string { return l.state.Plan.Dir }

// Hosts returns all hosts, in the order of the configuration.
func (l *Lab) Hosts() []*Host {
	hosts := make([]*Host, 0, len(l.state.Plan.Hosts))
	for _, h := range l.state.Plan.Hosts {
		hosts = append(hosts, l.newHost(h))
	}
	return hosts
}

// Host returns the host of that name. The error lists the names there are.
func (l *Lab) Host(name string) (*Host, error) {
	h, err := l.state.Plan.Host(name)
	if err != nil {
		return nil, err
	}
	return l.newHost(h), nil
}

// Client is the place on the guests' network from which the outside looks at them.
func (l *Lab) Client() *Client {
	return &Client{space: space{owner: l.state.Daemon, what: "lab " + l.Name(), plan: l.state.Plan}}
}

// call asks the daemon to do something.
func (l *Lab) call(ctx context.Context, r control.Request, result any) error {
	err := control.Call(ctx, l.state.Plan.ControlSocket(), r, result)
	if err != nil && ctx.Err() == nil && !l.state.Daemon.Alive() {
		return fmt.Errorf("lab %s: %w", l.Name(), ErrNotUp)
	}
	return err
}
