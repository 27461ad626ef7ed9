package postcopy_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/vmmigrate/vmmigrate/postcopy"
	"github.com/vmmigrate/vmmigrate/postcopy/fault/faulttest"
	"github.com/vmmigrate/vmmigrate/postcopy/prepage"
)

// What a page has to hold, as the thread knows that it belongs to.
const (
	fromSource = iota
	zeros
	written
	zerosOrSource // discarded and not told of
)

// thread owns the pages of one number modulo the number of threads and does random things with them.
type thread struct {
	g     *guest
	rng   *rand.Rand
	mine  []ref
	state map[ref]int
	tells bool // discards are told of
}

type ref struct{ block, page int }

// check reads a page and compares.
func (h *thread) check(ctx context.Context, m *faulttest.Memory, r ref) error {
	got, err := m.Touch(ctx, h.g.addr(r.block, r.page))
	if err != nil {
		return err
	}
	source, none := want(r.block, r.page), make([]byte, page)
	var ok bool
	switch h.state[r] {
	case fromSource:
		ok = string(got) == string(source)
	case zeros:
		ok = string(got) == string(none)
	case zerosOrSource:
		ok = string(got) == string(none) || string(got) == string(source)
	case written:
		ok = got[0] == 0x77
	}
	if !ok {
		return fmt.Errorf("page %v holds %x… in state %d", r, got[:8], h.state[r])
	}
	return nil
}

func (h *thread) play(ctx context.Context, steps int) error {
	for range steps {
		r := h.mine[h.rng.IntN(len(h.mine))]
		switch h.rng.IntN(6) {
		case 0:
			h.g.Discard(h.g.addr(r.block, r.page), page, h.tells)
			h.state[r] = zeros
			if !h.tells {
				h.state[r] = zerosOrSource
			}
		case 1:
			if err := h.check(ctx, h.g.Memory, r); err != nil {
				return err
			}
			if h.g.Write(h.g.addr(r.block, r.page), 0x77) {
				h.state[r] = written
			}
		default:
			if err := h.check(ctx, h.g.Memory, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// Whatever order faults, discards, lost links and placements come in, no thread ever sees anything but what the source holds,
// zeros where it discarded, or what it wrote; every thread goes on, and in the end the guest is whole.
func TestNobodySeesOtherContents(t *testing.T) {
	for seed := range uint64(40) {
		for _, tells := range []bool{true, false} {
			for _, direct := range []bool{true, false} {
				if err := playModel(t, seed, tells, direct); err != nil {
					t.Fatalf("seed %d, tells %t, direct %t: %v", seed, tells, direct, err)
				}
			}
		}
	}
}

func playModel(t *testing.T, seed uint64, tells, direct bool) (err error) {
	t.Helper()
	const threads = 5
	rng := rand.New(rand.NewPCG(seed, 11))
	g := newGuest(t, 90, 41)
	g.src.fail = sometimes(rng, postcopy.ErrLink)
	cfg := g.config()
	cfg.Events = tells
	if direct {
		cfg.Demand, cfg.Faults = newAsked(g.src), paired{g.Memory}
	}
	plan, err := prepage.New(prepage.Names()[1+rng.IntN(len(prepage.Names())-1)], g.blocks, cfg.Missing, nil)
	if err != nil {
		return err
	}
	cfg.Prepager, cfg.Around = plan, int64(rng.IntN(3))*4*page
	p, err := postcopy.New(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	all := make([]*thread, threads)
	errs := make([]error, threads)
	var wg sync.WaitGroup
	for i := range all {
		all[i] = &thread{g: g, rng: rand.New(rand.NewPCG(seed, uint64(i))), state: map[ref]int{}, tells: tells}
		for n := i; n < 131; n += threads {
			all[i].mine = append(all[i].mine, ref{n / 90, n % 90})
		}
		wg.Go(func() { errs[i] = all[i].play(ctx, 60) })
	}
	err = runUntilDone(ctx, p)
	g.Ignore() // from now on nobody reads events
	wg.Wait()
	if err = errors.Join(append(errs, err)...); err != nil {
		return err
	}
	for _, h := range all {
		for _, r := range h.mine {
			if err := h.check(ctx, g.Memory, r); err != nil {
				return err
			}
		}
	}
	return checkBooks(g, p)
}

// sometimes fails with err, one time in six, as the seed wants.
func sometimes(rng *rand.Rand, err error) func(context.Context, int, int, int) error {
	var mu sync.Mutex
	own := rand.New(rand.NewPCG(rng.Uint64(), 5))
	return func(context.Context, int, int, int) error {
		mu.Lock()
		defer mu.Unlock()
		if own.IntN(6) == 0 {
			return fmt.Errorf("injected: %w", err)
		}
		return nil
	}
}

func runUntilDone(ctx context.Context, p *postcopy.Pager) error {
	for {
		if err := p.Run(ctx); !errors.Is(err, postcopy.ErrLink) {
			return err
		}
	}
}

func checkBooks(g *guest, p *postcopy.Pager) error {
	st := p.Stats()
	if n := st.Demanded + st.Prepaged + st.Zero + st.Present + st.Discarded; n != 131 || st.Remaining != 0 || g.Watched() {
		return fmt.Errorf("%d pages settled of 131, watched: %t, %+v", n, g.Watched(), st)
	}
	return nil
}
