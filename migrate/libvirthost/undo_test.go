package libvirthost

import (
	"context"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// TestT4ConfirmOfAJobThatIsGone: what was cancelled is given back already, which is no error for who wants it given back.
func TestT4ConfirmOfAJobThatIsGone(t *testing.T) {
	for _, c := range []struct {
		name string
		upto func(context.Context, *way)
	}{
		{"begun", func(context.Context, *way) {}},
		{"prepared", func(ctx context.Context, w *way) { w.prepare(ctx) }},
		{"performing", func(ctx context.Context, w *way) { w.prepare(ctx).performing(ctx) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := testContext(t)
			p := newPair(ctx, t, guestConfig{})
			w := p.begin(ctx, precopyParams())
			c.upto(ctx, w)
			if err := p.a.Cancel(ctx, p.name); err != nil {
				t.Fatal(err)
			}
			if c.name == "performing" {
				<-w.perf
			}
			for range 2 {
				if err := p.a.Confirm(ctx, w.offer, w.params, w.ticket, false); err != nil {
					t.Errorf("Confirm: %v", err)
				}
			}
			if err := p.a.Confirm(ctx, w.offer, w.params, w.ticket, true); err == nil {
				t.Error("a guest that never left was released")
			}
			if len(w.ticket.Cookie) > 0 {
				if err := p.b.Finish(ctx, w.offer, w.params, w.ticket, false); err != nil {
					t.Error(err)
				}
			}
			p.whole(ctx, migrate.SideSource)
		})
	}
}

// TestT4ConfirmOfAGuestThatStandsStill: a job that ended with its client has left the guest standing, and Confirm does not let it
// run on: nobody may take it for done.
func TestT4ConfirmOfAGuestThatStandsStill(t *testing.T) {
	ctx := testContext(t)
	p := newPair(ctx, t, guestConfig{})
	w := p.begin(ctx, precopyParams()).prepare(ctx).performed(ctx)
	p.die(ctx)
	p.want(ctx, migrate.RunMigrated, "", false)
	if err := p.a.Confirm(ctx, w.offer, w.params, w.ticket, false); err == nil {
		t.Error("Confirm takes a guest that stands still for one that runs on")
	}
	if err := p.a.ResumeGuest(ctx, p.name); err != nil {
		t.Error(err)
	}
	p.whole(ctx, migrate.SideSource)
}
