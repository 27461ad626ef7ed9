package daemon

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/vmmigrate/vmmigrate/testenv/internal/control"
	"github.com/vmmigrate/vmmigrate/testenv/internal/hugepages"
	"github.com/vmmigrate/vmmigrate/testenv/internal/layout"
	"github.com/vmmigrate/vmmigrate/testenv/oracle"
)

// Operations on guests. The daemon knows their names and addresses and watches
// them; it does not start or move them.
const (
	OpGuestAdd    = "add-guest"    // Guest, Args → Guest
	OpGuestWatch  = "watch-guest"  // Guest
	OpGuestRemove = "remove-guest" // Guest
	OpGuestPages  = "borrow-pages" // Guest, Args: number of huge pages
	OpGuests      = "guests"       // → []Guest
	OpWitness     = "witness"      // Guest → oracle.WitnessReport
)

// Guest is what the daemon knows of a guest.
type Guest struct {
	Name    string       `json:"name"`
	Address netip.Prefix `json:"address"`
	MAC     string       `json:"mac"`
	// Config is whatever the one who added it gave along.
	Config json.RawMessage `json:"config,omitempty"`
}

// guests are the guests of a lab.
type guests struct {
	dialer oracle.Dialer // in the client's namespace
	pages  hugepages.Ledger

	mu   sync.Mutex
	list map[string]*guest // guarded by mu
}

// newGuests is no guests. The daemon lives in the client's namespace, so that a
// plain dialer will do.
func newGuests(d oracle.Dialer, pages hugepages.Ledger) *guests {
	return &guests{dialer: d, pages: pages, list: map[string]*guest{}}
}

type guest struct {
	Guest
	index   int
	witness *oracle.Witness // nil until it is watched
	pages   int             // huge pages borrowed for it
}

func (l *lab) guestOperations() map[string]control.Handler {
	g := l.guests
	return map[string]control.Handler{
		OpGuestAdd:    g.add,
		OpGuestWatch:  g.watch,
		OpGuestRemove: g.remove,
		OpGuestPages:  g.borrow,
		OpGuests:      func(context.Context, control.Request) (any, error) { return g.all(), nil },
		OpWitness:     g.report,
	}
}

// add gives a guest its place on the network.
func (g *guests) add(_ context.Context, r control.Request) (any, error) {
	if err := layout.CheckGuestName(r.Guest); err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.list[r.Guest] != nil {
		return nil, fmt.Errorf("the lab has a guest %q already", r.Guest)
	}
	index := g.free()
	address, err := layout.GuestAddress(index)
	if err != nil {
		return nil, err
	}
	added := &guest{Guest: Guest{Name: r.Guest, Address: address, MAC: layout.GuestMAC(index), Config: r.Args}, index: index}
	g.list[r.Guest] = added
	return added.Guest, nil
}

// free is the lowest number that no guest has.
func (g *guests) free() int {
	taken := map[int]bool{}
	for _, o := range g.list {
		taken[o.index] = true
	}
	for i := 0; ; i++ {
		if !taken[i] {
			return i
		}
	}
}

// watchStep is how often watch looks for the first answer.
const watchStep = 5 * time.Millisecond

// watch starts the witness of a guest and returns when that has had its first
// answer: from then on it can vouch for the guest. It is idempotent.
func (g *guests) watch(ctx context.Context, r control.Request) (any, error) {
	w, err := g.startWitness(ctx, r)
	if err != nil {
		return nil, err
	}
	step := time.NewTicker(watchStep)
	defer step.Stop()
	for w.Report().Answers == 0 {
		select {
		case <-step.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("watch guest %s: no answer yet: %w", r.Guest, context.Cause(ctx))
		}
	}
	return nil, nil
}

// startWitness starts the witness of a guest, or returns the one there is.
func (g *guests) startWitness(ctx context.Context, r control.Request) (*oracle.Witness, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	o := g.list[r.Guest]
	if o == nil {
		return nil, g.unknown(r.Guest)
	}
	if o.witness != nil {
		return o.witness, nil
	}
	addr := net.JoinHostPort(o.Address.Addr().String(), strconv.Itoa(oracle.Port))
	w, err := oracle.StartWitness(ctx, g.dialer, addr, oracle.WitnessOptions{})
	if err != nil {
		return nil, fmt.Errorf("watch guest %s: %w", r.Guest, err)
	}
	o.witness = w
	return w, nil
}

// borrow adds huge pages for a guest to the machine's pool, until it is removed.
func (g *guests) borrow(_ context.Context, r control.Request) (any, error) {
	var n int
	if err := json.Unmarshal(r.Args, &n); err != nil {
		return nil, fmt.Errorf("huge pages for guest %s: %w", r.Guest, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	o := g.list[r.Guest]
	if o == nil {
		return nil, g.unknown(r.Guest)
	}
	if err := g.pages.Borrow(n); err != nil {
		return nil, err
	}
	o.pages += n
	return nil, nil
}

// remove forgets a guest, stops watching it and returns its huge pages. It is
// idempotent.
func (g *guests) remove(_ context.Context, r control.Request) (any, error) {
	g.mu.Lock()
	o := g.list[r.Guest]
	delete(g.list, r.Guest)
	g.mu.Unlock()
	if o != nil && o.witness != nil {
		o.witness.Stop()
	}
	if o != nil && o.pages > 0 {
		return nil, g.pages.Return(o.pages)
	}
	return nil, nil
}

// errUnwatched is the error for a guest that has not answered yet.
var errUnwatched = errors.New("the guest is not watched yet")

func (g *guests) report(_ context.Context, r control.Request) (any, error) {
	g.mu.Lock()
	o := g.list[r.Guest]
	g.mu.Unlock()
	switch {
	case o == nil:
		return nil, g.unknown(r.Guest)
	case o.witness == nil:
		return nil, errUnwatched
	}
	return o.witness.Report(), nil
}

func (g *guests) unknown(name string) error {
	return fmt.Errorf("the lab has no guest %q", name)
}

// all lists the guests by name.
func (g *guests) all() []Guest {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := []Guest{}
	for _, o := range g.list {
		list = append(list, o.Guest)
	}
	slices.SortFunc(list, func(a, b Guest) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// close stops all witnesses.
func (g *guests) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, o := range g.list {
		if o.witness != nil {
			o.witness.Stop()
		}
	}
	g.list = map[string]*guest{}
}
