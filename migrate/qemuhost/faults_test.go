package qemuhost

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// before is what a source has to look like again when a migration did not happen.
type before struct {
	caps   map[string]bool
	params map[string]any
}

func snapshot(m *model) before {
	m.mu.Lock()
	defer m.mu.Unlock()
	return before{maps.Clone(m.caps), maps.Clone(m.params)}
}

// attempt drives one migration as an engine does, with its undoing, and tells whether the guest landed. After each step
// check sees both ends.
func attempt(ctx context.Context, a, b *Host, p migrate.Params, check func(step string)) (landed bool, err error) {
	defer check("the end")
	o, err := a.Begin(ctx, "guest", p)
	if check("Begin"); err != nil {
		return false, err
	}
	t, err := b.Prepare(ctx, o, p)
	if check("Prepare"); err != nil {
		return false, errors.Join(err, a.Confirm(ctx, o, p, migrate.Ticket{}, false))
	}
	out, err := a.Perform(ctx, o, p, t)
	if check("Perform"); err != nil {
		return false, errors.Join(err, b.Finish(ctx, o, p, t, false))
	}
	t = out
	undo := func(err error) (bool, error) {
		err = errors.Join(err, b.Finish(ctx, o, p, t, false))
		check("Finish(false)")
		return false, errors.Join(err, a.Confirm(ctx, o, p, t, false))
	}
	err = a.Switch(ctx, o, p)
	if check("Switch"); err != nil {
		if errors.Is(err, migrate.ErrNotLanded) {
			return undo(err)
		}
		return false, fmt.Errorf("%w: %w", migrate.ErrOwnerUnknown, err)
	}
	err = b.Finish(ctx, o, p, t, true)
	if check("Finish"); err != nil {
		if errors.Is(err, migrate.ErrNotLanded) {
			return undo(err)
		}
		return false, fmt.Errorf("%w: %w", migrate.ErrOwnerUnknown, err)
	}
	return true, a.Confirm(ctx, o, p, t, true)
}

// everything is a migration in which every command of the driver is used.
func everything() migrate.Params {
	return migrate.Params{Strategy: migrate.StrategyPrecopy, CopyStorage: migrate.CopyAll, TLS: true}
}

// outcome runs one attempt with a fault and checks what must hold after any.
func outcome(t *testing.T, plant func(src, dst *model)) (src, dst *model, landed bool, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	src, dst = modelPair(t)
	a, b := src.host(ctx), dst.host(ctx)
	plant(src, dst)
	landed, err = attempt(ctx, a, b, everything(), func(step string) {
		if src.runs() && dst.runs() {
			t.Errorf("after %s the guest runs on both ends", step)
		}
	})
	if errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("it hung: %v", err)
	}
	return src, dst, landed, err
}

func TestAMigrationWithoutAFault(t *testing.T) {
	src, dst, landed, err := outcome(t, func(_, _ *model) {})
	if err != nil || !landed {
		t.Fatalf("landed %t, %v", landed, err)
	}
	if !src.dead || !dst.runs() {
		t.Errorf("the source is %s, the destination %s", src.run, dst.run)
	}
	for name, on := range dst.caps {
		if on {
			t.Errorf("capability %s is left on at the destination", name)
		}
	}
	if len(dst.objects) > 0 || dst.nbd {
		t.Errorf("left at the destination: objects %v, NBD server %t", dst.objects, dst.nbd)
	}
}

// Each command of the source is refused once. The guest must run on the source, which must be as it was found; or it
// must have landed, if the refusal came too late to matter.
func TestEveryRefusalAtTheSource(t *testing.T) {
	whole, _, _, _ := outcome(t, func(_, _ *model) {})
	clean := snapshot(newModel(t, false))
	for n := 1; n <= len(whole.trace); n++ {
		t.Run(fmt.Sprintf("%d %s", n, whole.trace[n-1]), func(t *testing.T) {
			src, dst, landed, err := outcome(t, func(src, _ *model) { src.failAt = n })
			switch {
			case landed && dst.runs() && !src.runs():
			case errors.Is(err, migrate.ErrOwnerUnknown) && !src.runs() && !dst.runs():
			case err == nil || landed || !src.runs():
				t.Errorf("landed %t, error %v: source %s, destination %s", landed, err, src.run, dst.run)
			default:
				asFound(t, src, clean)
			}
		})
	}
}

// Each command of the destination is refused once.
func TestEveryRefusalAtTheDestination(t *testing.T) {
	_, whole, _, _ := outcome(t, func(_, _ *model) {})
	clean := snapshot(newModel(t, false))
	for n := 1; n <= len(whole.trace); n++ {
		t.Run(fmt.Sprintf("%d %s", n, whole.trace[n-1]), func(t *testing.T) {
			src, dst, landed, err := outcome(t, func(_, dst *model) { dst.failAt = n })
			switch {
			case landed && dst.runs() && src.dead:
			case errors.Is(err, migrate.ErrOwnerUnknown) && !src.runs():
			case err == nil || landed || !src.runs():
				t.Errorf("landed %t, error %v: source %s, destination %s", landed, err, src.run, dst.run)
			default:
				asFound(t, src, clean)
				if !dst.dead && (len(dst.objects) > 0 || dst.nbd) {
					t.Errorf("left at the destination: objects %v, NBD server %t", dst.objects, dst.nbd)
				}
			}
		})
	}
}

// Each end dies at each of its commands. Whatever is said then, nothing may hang, and a source that is alive either
// runs the guest or is known to have lost it to the destination.
func TestEveryDeath(t *testing.T) {
	wholeSrc, wholeDst, _, _ := outcome(t, func(_, _ *model) {})
	for n := 1; n <= len(wholeSrc.trace); n++ {
		t.Run(fmt.Sprintf("source %d %s", n, wholeSrc.trace[n-1]), func(t *testing.T) {
			src, _, landed, err := outcome(t, func(src, _ *model) { src.dieAt = n })
			if err == nil && !landed || src.runs() {
				t.Errorf("landed %t, %v", landed, err)
			}
			if err != nil && !errors.Is(err, migrate.ErrLinkLost) {
				t.Errorf("%v does not wrap ErrLinkLost", err)
			}
		})
	}
	for n := 1; n <= len(wholeDst.trace); n++ {
		t.Run(fmt.Sprintf("destination %d %s", n, wholeDst.trace[n-1]), func(t *testing.T) {
			src, _, landed, err := outcome(t, func(_, dst *model) { dst.dieAt = n })
			known := errors.Is(err, migrate.ErrOwnerUnknown) || landed
			if err == nil && !landed || !known && !src.runs() {
				t.Errorf("landed %t, %v, and the source is %s", landed, err, src.run)
			}
		})
	}
}

// asFound fails unless a source is as it was before the migration.
func asFound(t *testing.T, src *model, want before) {
	t.Helper()
	got := snapshot(src)
	if d := cmp.Diff(want.caps, got.caps); d != "" {
		t.Errorf("capabilities were not restored: %s", d)
	}
	if d := cmp.Diff(want.params, got.params); d != "" {
		t.Errorf("parameters were not restored: %s", d)
	}
	if len(src.objects)+len(src.nodes)+len(src.jobs) > 0 {
		t.Errorf("left at the source: objects %v, nodes %v, jobs %v", src.objects, src.nodes, src.jobs)
	}
}
