package libvirthost

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// die closes both connections, which is all that libvirt sees of a client's death, and opens new ones.
func (p *pair) die(ctx context.Context) {
	p.t.Helper()
	p.a.Close()
	p.b.Close()
	p.a, p.b = p.dial(ctx, p.hostA), p.dial(ctx, p.hostB)
}

func precopyParams() migrate.Params {
	return migrate.Params{Strategy: migrate.StrategyPrecopy, Bandwidth: slow}
}

func postcopyParams() migrate.Params {
	return migrate.Params{Strategy: migrate.StrategyPostcopy, Bandwidth: slow, BandwidthPostcopy: slow}
}

// whole fails unless the guest runs on a side with its memory as it should be.
func (p *pair) whole(ctx context.Context, side migrate.Side) {
	p.t.Helper()
	if r := p.runOf(ctx, p.side(side)); r != migrate.RunRunning {
		p.t.Errorf("the guest is %q at the %s", r, side)
	}
	if err := p.verify(ctx, side); err != nil {
		p.t.Errorf("memory at the %s: %v", side, err)
	}
}

// TestT4ClientDies is the table of the package comment: what libvirt leaves of a migration whose client died, and the
// repair that brings the guest back.
func TestT4ClientDies(t *testing.T) {
	source, dest := migrate.SideSource, migrate.SideDestination
	for _, c := range []struct {
		name   string
		params migrate.Params
		upto   func(context.Context, *way)
		src    migrate.RunState
		dst    migrate.RunState
		job    bool
		repair func(context.Context, *pair) error
		at     migrate.Side
	}{
		{"after Begin", precopyParams(), func(context.Context, *way) {}, migrate.RunRunning, "", false, nil, source},
		{"after Prepare", precopyParams(), func(ctx context.Context, w *way) { w.prepare(ctx) }, migrate.RunRunning, "", false, nil, source},
		{"in Perform", precopyParams(), func(ctx context.Context, w *way) { w.prepare(ctx).performing(ctx) }, migrate.RunRunning, "", false, nil, source},
		{"after Perform", precopyParams(), func(ctx context.Context, w *way) { w.prepare(ctx).performed(ctx) }, migrate.RunMigrated, "", false,
			func(ctx context.Context, p *pair) error { return p.a.ResumeGuest(ctx, p.name) }, source},
		{"after Finish", precopyParams(), func(ctx context.Context, w *way) { w.prepare(ctx).performed(ctx).finished(ctx) }, migrate.RunMigrated, migrate.RunRunning, false,
			func(ctx context.Context, p *pair) error { return p.a.Release(ctx, p.name, true) }, dest},
		{"in Perform of a post-copy", postcopyParams(), func(ctx context.Context, w *way) { w.prepare(ctx).performing(ctx) }, migrate.RunRunning, "", false, nil, source},
		{"after Finish of a post-copy", postcopyParams(), func(ctx context.Context, w *way) { w.prepare(ctx).performed(ctx).finished(ctx) }, migrate.RunPostcopyPaused, migrate.RunRunning, true,
			func(ctx context.Context, p *pair) error { return p.a.Release(ctx, p.name, true) }, dest},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := testContext(t)
			p := newPair(ctx, t, guestConfig{})
			c.upto(ctx, p.begin(ctx, c.params))
			p.die(ctx)
			p.want(ctx, c.src, c.dst, c.job)
			if c.repair != nil {
				if err := c.repair(ctx, p); err != nil {
					t.Error(err)
				}
			}
			p.whole(ctx, c.at)
			if c.at == dest && p.runOf(ctx, p.a) != "" {
				t.Error("the source is not released")
			}
		})
	}
}

// TestT4ClientDiesInFinishOfPostcopy: libvirt brings the paging to its end and releases the source by itself. Until
// then it shows the source as broken though it serves.
func TestT4ClientDiesInFinishOfPostcopy(t *testing.T) {
	ctx := testContext(t)
	p := newPair(ctx, t, guestConfig{})
	done := p.begin(ctx, postcopyParams()).prepare(ctx).performed(ctx).finishing(ctx)
	p.die(ctx)
	<-done
	if s := p.runOf(ctx, p.a); s != migrate.RunPostcopyPaused && s != "" {
		t.Errorf("the source is %q", s)
	}
	p.want(ctx, "", migrate.RunRunning, false)
	p.whole(ctx, migrate.SideDestination)
}

// TestT4ClientDiesBeforeFinishOfPostcopy is the one gap that libvirt leaves: the destination, which has not run, goes
// with the connection, and nothing makes QEMU run the source again. Nobody may act as if it were otherwise.
func TestT4ClientDiesBeforeFinishOfPostcopy(t *testing.T) {
	ctx := testContext(t)
	p := newPair(ctx, t, guestConfig{})
	p.begin(ctx, postcopyParams()).prepare(ctx).performed(ctx)
	p.die(ctx)
	p.want(ctx, migrate.RunPostcopyPaused, "", true)
	if err := p.a.ResumeGuest(ctx, p.name); err == nil {
		t.Error("the source was resumed")
	}
}

// TestT4PeerOutlivesTheClient: a migration that the daemon drives needs no client, in pre-copy and in post-copy.
func TestT4PeerOutlivesTheClient(t *testing.T) {
	for name, params := range map[string]migrate.Params{"pre-copy": {Strategy: migrate.StrategyPrecopy, Bandwidth: 16 << 20}, "post-copy": postcopyParams()} {
		t.Run(name, func(t *testing.T) {
			ctx := testContext(t)
			p := newPair(ctx, t, guestConfig{})
			w := &way{pair: p, params: params, perf: make(chan error, 1)}
			w.peer(ctx, p.hostB.TCPURI())
			if params.Strategy.Postcopy() {
				if err := p.a.StartPostcopy(ctx, p.name); err != nil {
					t.Fatal(err)
				}
			} else if err := p.a.Tune(ctx, p.name, migrate.Tuning{Bandwidth: 1 << 40, MaxDowntime: 5 * time.Second}); err != nil {
				t.Fatal(err)
			}
			p.die(ctx)
			<-w.perf
			p.want(ctx, "", migrate.RunRunning, false)
			p.until(ctx, "the destination's job is over", func() bool {
				s, err := p.b.State(ctx, p.name)
				return err == nil && !s.Job
			})
			p.whole(ctx, migrate.SideDestination)
		})
	}
}

// peer starts a migration from daemon to daemon and returns when RAM is on its way.
func (w *way) peer(ctx context.Context, uri string) {
	w.t.Helper()
	a := w.a
	go func() { w.perf <- a.MigratePeer(ctx, w.name, w.params, uri) }()
	w.until(ctx, "RAM is on its way", func() bool {
		s, err := w.a.Stats(ctx, w.name)
		return err == nil && s.Status == "active" && s.RAMSent != nil && *s.RAMSent > 0
	})
}

// TestT4SourceLinkLostInPerform: libvirt goes on with a copying whose client is gone as long as the destination's is
// there, so that the source stands still in the end and somebody has to resume it.
func TestT4SourceLinkLostInPerform(t *testing.T) {
	ctx := testContext(t)
	p := newPair(ctx, t, guestConfig{})
	w := p.begin(ctx, precopyParams()).prepare(ctx).performing(ctx)
	if err := p.a.Tune(ctx, p.name, migrate.Tuning{Bandwidth: 16 << 20, MaxDowntime: 5 * time.Second}); err != nil {
		t.Fatal(err)
	}
	p.a.Close()
	if err := <-w.perf; !errors.Is(err, migrate.ErrLinkLost) || migrate.FixOf(err) == "" {
		t.Errorf("Perform: %v", err)
	}
	p.a = p.dial(ctx, p.hostA)
	p.want(ctx, migrate.RunMigrated, migrate.RunIncoming, false)
	if err := p.b.Finish(ctx, w.offer, w.params, w.ticket, false); err != nil {
		t.Error(err)
	}
	if err := p.a.ResumeGuest(ctx, p.name); err != nil {
		t.Error(err)
	}
	p.whole(ctx, migrate.SideSource)
}

// TestT4DestinationLinkLostAfterPerform: the destination goes with its connection, and Confirm resumes the source.
func TestT4DestinationLinkLostAfterPerform(t *testing.T) {
	ctx := testContext(t)
	p := newPair(ctx, t, guestConfig{})
	w := p.begin(ctx, precopyParams()).prepare(ctx).performed(ctx)
	p.b.Close()
	err := p.b.Finish(ctx, w.offer, w.params, w.ticket, true)
	if !errors.Is(err, migrate.ErrLinkLost) || errors.Is(err, migrate.ErrNotLanded) {
		t.Errorf("Finish over a lost connection: %v", err)
	}
	p.b = p.dial(ctx, p.hostB)
	p.want(ctx, migrate.RunMigrated, "", true)
	if err := p.a.Confirm(ctx, w.offer, w.params, w.ticket, false); err != nil {
		t.Error(err)
	}
	p.whole(ctx, migrate.SideSource)
}

// TestT4FinishKnowsThatNothingLanded: the destination's QEMU dies before Finish, and Finish says so for certain.
func TestT4FinishKnowsThatNothingLanded(t *testing.T) {
	ctx := testContext(t)
	p := newPair(ctx, t, guestConfig{})
	w := p.begin(ctx, precopyParams()).prepare(ctx).performed(ctx)
	p.killQEMU(p.hostB)
	if err := p.b.Finish(ctx, w.offer, w.params, w.ticket, true); !errors.Is(err, migrate.ErrNotLanded) {
		t.Errorf("Finish: %v", err)
	}
	if err := p.a.Confirm(ctx, w.offer, w.params, w.ticket, false); err != nil {
		t.Error(err)
	}
	p.whole(ctx, migrate.SideSource)
}

// TestT4Recovery breaks a post-copy and takes it up again with the same five calls, where libvirt survives that.
func TestT4Recovery(t *testing.T) {
	ctx := testContext(t)
	p := newPair(ctx, t, guestConfig{})
	w := p.begin(ctx, postcopyParams()).prepare(ctx).performed(ctx)
	done := w.finishing(ctx)
	if err := p.a.Pause(ctx, p.name); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, migrate.ErrPaused) {
		t.Errorf("Finish of a broken post-copy: %v", err)
	}
	if err := p.a.Confirm(ctx, w.offer, w.params, w.ticket, false); err != nil {
		t.Error(err)
	}
	p.want(ctx, migrate.RunPostcopyPaused, migrate.RunPostcopyPaused, true)
	if s, err := p.a.Stats(ctx, p.name); err != nil || s.Status != "postcopy-paused" {
		t.Errorf("Stats: %q, %v", s.Status, err)
	}
	again := migrate.Params{Strategy: migrate.StrategyPostcopy, Resume: true}
	w = &way{pair: p, params: again}
	p.until(ctx, "QEMU has noticed on the source", func() bool {
		o, err := p.a.Begin(ctx, p.name, again)
		if err != nil && !errors.Is(err, migrate.ErrBusy) {
			t.Fatal(err)
		}
		w.offer = o
		return err == nil
	})
	if err := p.b.CanResume(ctx); err != nil {
		p.cannotResume(ctx, w, err)
		return
	}
	w.prepare(ctx)
	t2, err := p.a.Perform(ctx, w.offer, w.params, w.ticket)
	if err != nil {
		t.Fatal(err)
	}
	w.ticket = t2
	w.finished(ctx)
	if err := p.a.Confirm(ctx, w.offer, w.params, w.ticket, true); err != nil {
		t.Error(err)
	}
	p.whole(ctx, migrate.SideDestination)
}

// cannotResume: a libvirt that would crash is not asked, and nothing changes on either side.
func (p *pair) cannotResume(ctx context.Context, w *way, why error) {
	p.t.Helper()
	if !errors.Is(why, migrate.ErrNotSupported) || migrate.FixOf(why) == "" {
		p.t.Errorf("CanResume: %v (fix %q)", why, migrate.FixOf(why))
	}
	if _, err := p.b.Prepare(ctx, w.offer, w.params); !errors.Is(err, migrate.ErrNotSupported) {
		p.t.Errorf("Prepare: %v", err)
	}
	if err := p.a.Confirm(ctx, w.offer, w.params, w.ticket, false); err != nil {
		p.t.Error(err)
	}
	p.want(ctx, migrate.RunPostcopyPaused, migrate.RunPostcopyPaused, true)
	p.t.Log("recovery was not tried: ", why)
}

// TestT4Busy: a second coordinator finds the guest taken, at once.
func TestT4Busy(t *testing.T) {
	ctx := testContext(t)
	p := newPair(ctx, t, guestConfig{})
	w := p.begin(ctx, precopyParams()).prepare(ctx).performing(ctx)
	other := p.dial(ctx, p.hostA)
	if _, err := other.Begin(ctx, p.name, precopyParams()); !errors.Is(err, migrate.ErrBusy) {
		t.Errorf("Begin: %v", err)
	}
	if err := other.ResumeGuest(ctx, p.name); err != nil {
		t.Errorf("ResumeGuest of a guest that runs: %v", err)
	}
	if err := other.Cancel(ctx, p.name); err != nil {
		t.Error(err)
	}
	if err := <-w.perf; !errors.Is(err, migrate.ErrCancelled) {
		t.Errorf("Perform that somebody cancelled: %v", err)
	}
	if err := p.b.Finish(ctx, w.offer, w.params, w.ticket, false); err != nil {
		t.Error(err)
	}
	p.whole(ctx, migrate.SideSource)
}

// TestT4NameInUse: Prepare finds another domain of that name, and the source is given back.
func TestT4NameInUse(t *testing.T) {
	ctx := testContext(t)
	p := newPair(ctx, t, guestConfig{})
	taken := *p
	taken.uuid, taken.a = "7f000000-0000-4000-8000-000000000002", p.b
	taken.start(ctx, guestConfig{})
	w := p.begin(ctx, precopyParams())
	_, err := p.b.Prepare(ctx, w.offer, w.params)
	if err == nil || migrate.FixOf(err) == "" {
		t.Errorf("Prepare: %v (fix %q)", err, migrate.FixOf(err))
	}
	if err := p.a.Confirm(ctx, w.offer, w.params, w.ticket, false); err != nil {
		t.Error(err)
	}
	p.whole(ctx, migrate.SideSource)
	d, err := p.b.lookup(ctx, p.name)
	if err != nil || formatUUID(d.UUID) != taken.uuid || p.runOf(ctx, p.b) != migrate.RunRunning {
		t.Errorf("the other domain: %s, %v", formatUUID(d.UUID), err)
	}
}
