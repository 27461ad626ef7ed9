package qemuhost

import (
	"context"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// anew gives drivers that know nothing of what the others did, as a coordinator has after the first one died.
func (p *pair) anew(ctx context.Context) (src, dst *Host) {
	p.t.Helper()
	dial := func(q *testQEMU) *Host {
		h, err := Dial(ctx, Scheme+"://"+q.third, Options{Poll: 20 * time.Millisecond, Stuck: time.Second})
		if err != nil {
			p.t.Fatal(err)
		}
		p.t.Cleanup(func() { _ = h.Close() })
		return h
	}
	_, _ = p.a.Close(), p.b.Close() // the connections of the dead; QEMU does not mind
	return dial(p.src), dial(p.dst)
}

func TestT3TakeOverBeforeTheSwitch(t *testing.T) {
	ctx := limit(t, time.Minute)
	p, srcImage, _ := diskPair(ctx, t)
	params := migrate.Params{Strategy: migrate.StrategyPrecopy, CopyStorage: migrate.CopyAll, MaxDowntime: 5 * time.Second}
	o, ticket := p.prepared(ctx, params)
	if _, err := p.a.Perform(ctx, o, params, ticket); err != nil {
		t.Fatal(err)
	}
	a, b := p.anew(ctx)
	if err := b.Discard(ctx, "guest"); err != nil {
		t.Fatal(err)
	}
	if err := a.Cancel(ctx, "guest"); err != nil {
		t.Fatal(err)
	}
	if s, err := a.State(ctx, "guest"); err != nil || s.Run != migrate.RunRunning || s.Job {
		t.Errorf("the source: %+v, %v", s, err)
	}
	guestWrites(ctx, t, p.src.qmp(ctx), 0x66, 0, 65536)
	wantBytes(t, srcImage, 0x66, 0, 65536)
}

// The coordinator dies while disks are mirrored and no migration has been started.
func TestT3TakeOverWhileDisksAreMirrored(t *testing.T) {
	ctx := limit(t, time.Minute)
	p, _, _ := diskPair(ctx, t)
	params := migrate.Params{Strategy: migrate.StrategyPrecopy, CopyStorage: migrate.CopyAll, Bandwidth: 1 << 20}
	o, ticket := p.prepared(ctx, params)
	own, die := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		_, err := p.a.Perform(own, o, params, ticket)
		done <- err
	}()
	waitStats(ctx, t, p.a, done, func(s migrate.Stats) bool { return s.DiskSent != nil && *s.DiskSent > 0 })
	die()
	<-done
	a, _ := p.anew(ctx)
	if err := a.ResumeGuest(ctx, "guest"); err != nil {
		t.Fatal(err)
	}
	if js, err := qmp.QueryJobs(ctx, a.c); err != nil || len(js) > 0 {
		t.Errorf("jobs left behind: %v, %v", js, err)
	}
	if nodes, err := a.ourNodes(ctx); err != nil || len(nodes) > 0 {
		t.Errorf("nodes left behind: %v, %v", nodes, err)
	}
	if s, err := a.State(ctx, "guest"); err != nil || s.Run != migrate.RunRunning {
		t.Errorf("the source: %+v, %v", s, err)
	}
}

// The coordinator dies between the switch to post-copy and the order to run.
func TestT3TakeOverInPostcopy(t *testing.T) {
	for _, how := range []string{"ResumeGuest", "Finish"} {
		t.Run(how, func(t *testing.T) {
			ctx := limit(t, time.Minute)
			p := newPair(ctx, t, 20000)
			params := slowPostcopy()
			params.BandwidthPostcopy = 1 << 20 // it must not be over before the source is asked to run
			o, ticket := p.stands(ctx, params)
			if err := p.a.Switch(ctx, o, params); err != nil {
				t.Fatal(err)
			}
			a, b := p.anew(ctx)
			if err := a.ResumeGuest(ctx, "guest"); err == nil {
				t.Fatal("the source was let run though the destination owns the guest")
			}
			if err := a.Tune(ctx, "guest", migrate.Tuning{BandwidthPostcopy: 1 << 30}); err != nil {
				t.Fatal(err)
			}
			var err error
			if how == "Finish" {
				err = b.Finish(ctx, o, params, ticket, true)
			} else {
				err = b.ResumeGuest(ctx, "guest")
			}
			if err != nil {
				t.Fatal(err)
			}
			s, err := b.State(ctx, "guest")
			if err != nil || s.Run != migrate.RunRunning && s.Run != migrate.RunPostcopy {
				t.Errorf("the destination: %+v, %v", s, err)
			}
			if err := a.Confirm(ctx, o, params, ticket, true); err != nil {
				t.Fatal(err)
			}
			await(ctx, t, "the source's QEMU ends", p.src.ended)
			if err := p.dst.verify(ctx, p.dst.qmp(ctx)); err != nil {
				t.Error(err)
			}
			if _, err := Dial(ctx, p.src.uri, Options{}); err == nil {
				t.Error("a QEMU that has quit was dialled")
			} else {
				wantIs(t, err, migrate.ErrNoDomain)
			}
		})
	}
}
