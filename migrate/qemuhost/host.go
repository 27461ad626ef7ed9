package qemuhost

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// Options tune a Host. The zero value is fit for use.
type Options struct {
	// Log gets what a developer wants to know; nil discards it.
	Log *slog.Logger
	// Poll is the time between two looks at a QEMU whose events tell nothing. 0 means 100 ms.
	Poll time.Duration
	// Grace bounds the steps that clean up after a failure. 0 means 30 s.
	Grace time.Duration
	// Stuck is how long a source may stand in a state that it should leave at once before it counts as stuck there.
	// 0 means 3 s.
	Stuck time.Duration
	// Judge is the time between two judgements of a disk's copy (migrate.DiskPilot). 0 means 2 s.
	Judge time.Duration
}

// Host is one QEMU process behind one QMP socket. It is both a migrate.Source and a migrate.Destination.
type Host struct {
	addr  address
	c     monitor
	log   *slog.Logger
	poll  time.Duration
	grace time.Duration
	stuck time.Duration
	judge time.Duration
	id    identity
	// pid is QEMU's, by its socket; 0 if it was not seen there.
	pid int

	wg   sync.WaitGroup // the goroutines of Watch
	ctx  context.Context
	stop context.CancelFunc

	tuning sync.Mutex // keeps Tune and hold apart

	mu       sync.Mutex
	copying  *copying                  // the Perform under way; nil when there is none
	saved    map[migrate.Side]settings // what Begin and Prepare found, for a Cancel that has no Offer
	switched bool                      // Switch was called: nothing can be cancelled any more
	through  bool                      // Perform did what Switch does
	quitting bool                      // we told QEMU to quit
	copies   *copies                   // the mirrors; nil if there were none
	pause    time.Duration             // the pause that is accepted, as it was asked for last
	rate     int64                     // and the cap of RAM
}

// identity is what a guest can be called by.
type identity struct{ name, uuid string }

var (
	_ migrate.Source      = (*Host)(nil)
	_ migrate.Destination = (*Host)(nil)
	_ migrate.Custodian   = (*Host)(nil)
)

// noUUID is what QEMU tells of a guest that was given none.
const noUUID = "00000000-0000-0000-0000-000000000000"

// Dial connects to the QEMU of a qemu+qmp:// URI. The context bounds connecting only. A QMP socket serves one client
// at a time: while another holds it, Dial waits until ctx ends.
func Dial(ctx context.Context, uri string, o Options) (*Host, error) {
	const op = "connect to QEMU"
	a, err := parseURI(uri)
	if err != nil {
		return nil, migrate.Fail(op, "", err, "write the URI as "+Scheme+":///path/to/qmp.sock")
	}
	conn, pid, err := dialSocket(ctx, a.socket)
	var c *qmp.Client
	if err == nil {
		c, err = qmp.NewClient(ctx, conn)
	}
	if err != nil {
		return nil, migrate.Fail(op, "", fmt.Errorf("%s: %w", a.socket, mute(pid, a.socket, unreachable(a.socket, err))), dialFix(err))
	}
	h, err := newHost(ctx, c, a, o)
	if err != nil {
		_ = c.Close() // the first error says more
		return nil, migrate.Fail(op, "", mute(pid, a.socket, err), "")
	}
	h.pid = pid
	return h, nil
}

// New makes a Host of a client that is connected already, which it owns from then on, also when it fails. The URI is
// what the Host is called; its path is not dialled.
func New(ctx context.Context, c *qmp.Client, uri string, o Options) (*Host, error) {
	a, err := parseURI(uri)
	if err == nil {
		var h *Host
		if h, err = newHost(ctx, c, a, o); err == nil {
			return h, nil
		}
	}
	_ = c.Close() // the first error says more
	return nil, migrate.Fail("connect to QEMU", "", err, "")
}

// unreachable says what it means that a socket cannot be dialled.
func unreachable(socket string, err error) error {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case nobody(socket, err):
		return fmt.Errorf("%w: no QEMU is there: %w", migrate.ErrNoDomain, err)
	}
	return fmt.Errorf("%w: %w", migrate.ErrLinkLost, err)
}

// mute adds to the error of a QEMU whose time to answer ran out that its process is there, if it is: pid had the socket.
func mute(pid int, socket string, err error) error {
	if pid == 0 || !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	pid, ok := qemuProcess(pid, socket)
	if !ok {
		return err
	}
	return fmt.Errorf("process %d: %w: %w", pid, migrate.ErrMute, err)
}

func dialFix(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "QEMU serves one client per socket: end the other one, or start QEMU with a second -qmp"
	}
	return "is QEMU running, started with -qmp unix:PATH,server=on,wait=off, and may we open the socket?"
}

func newHost(ctx context.Context, c *qmp.Client, a address, o Options) (*Host, error) {
	h := &Host{addr: a, c: monitor{c}, log: o.Log, poll: or(o.Poll, 100*time.Millisecond), grace: or(o.Grace, 30*time.Second),
		stuck: or(o.Stuck, 3*time.Second), judge: o.Judge}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	if err := h.identify(ctx); err != nil {
		return nil, err
	}
	h.ctx, h.stop = context.WithCancel(context.Background())
	return h, nil
}

func or(d, def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return d
}

// identify reads the guest's name and UUID, which do not change while QEMU lives.
func (h *Host) identify(ctx context.Context) error {
	name, _, err := qmp.QueryName(ctx, h.c)
	if err != nil {
		return err
	}
	uuid, err := qmp.QueryUUID(ctx, h.c)
	if err != nil {
		return err
	}
	h.id = identity{name: name, uuid: strings.ToLower(uuid)}
	if h.id.uuid == noUUID {
		h.id.uuid = ""
	}
	return nil
}

// matches tells whether name means this QEMU's guest.
func (i identity) matches(name string) bool {
	return name == "" || name == "-" || name == i.name || i.uuid != "" && strings.EqualFold(name, i.uuid)
}

// find fails with ErrNoDomain unless name means the guest of this QEMU and the QEMU was not told to quit.
func (h *Host) find(name string, side migrate.Side) error {
	if !h.id.matches(name) {
		return migrate.Fail("look up the guest", side, fmt.Errorf("%q: %w: this QEMU's guest is %q", name, migrate.ErrNoDomain, h.id.name),
			"name the guest as QEMU's -name does, or write - for the one that is there")
	}
	if h.isGone() {
		return migrate.Fail("look up the guest", side, fmt.Errorf("%q: %w: its QEMU has quit", name, migrate.ErrNoDomain), "")
	}
	return nil
}

// isGone tells whether QEMU quit because we told it to.
func (h *Host) isGone() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.quitting && h.c.Err() != nil
}

// URI is what the user wrote.
func (h *Host) URI() string { return h.addr.uri }

// Close ends the connection and waits for the goroutines of Watch. QEMU and the guest go on.
func (h *Host) Close() error {
	h.stop()
	err := h.c.Close()
	h.wg.Wait()
	return err
}

// await calls check now, after each of the events and at least every Poll, until it says done or fails. It returns
// when ctx or the connection ends.
func (h *Host) await(ctx context.Context, check func(context.Context) (bool, error), events ...string) error {
	sub, err := h.c.Subscribe(qmp.SubscribeOptions{Names: events, Queue: 16})
	if err != nil {
		return err
	}
	defer sub.Close()
	tick := time.NewTicker(h.poll)
	defer tick.Stop()
	for {
		done, err := check(ctx)
		if done || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case _, ok := <-sub.C():
			if !ok {
				return h.c.lost(sub.Err())
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// quit ends QEMU and waits until it has let go of the socket.
func (h *Host) quit(ctx context.Context) error {
	h.mu.Lock()
	h.quitting = true
	h.mu.Unlock()
	if err := qmp.Quit(ctx, h.c); err != nil && !errors.Is(err, migrate.ErrLinkLost) {
		return err
	}
	select {
	case <-h.c.Done():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
