package libvirthost

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/digitalocean/go-libvirt"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// early begins a post-copy and calls Finish while Perform runs, before the switch.
func (w *way) early(ctx context.Context) chan error {
	w.t.Helper()
	if !w.b.FinishesEarly(w.params) {
		w.t.Fatal("this migration cannot be finished early")
	}
	w.performing(ctx)
	done, b := make(chan error, 1), w.b
	offer, params, ticket := w.offer, w.params, w.ticket
	go func() { done <- b.Finish(ctx, offer, params, ticket, true) }()
	w.until(ctx, "Finish is under way", func() bool { return len(w.b.c.calls) > 0 })
	if _, err := w.b.Domains(ctx); err != nil { // answered behind Finish, so that has been read as well
		w.t.Fatal(err)
	}
	return done
}

// TestT4FinishEarly: the guest runs at the destination as soon as it can, and nothing is lost of it.
func TestT4FinishEarly(t *testing.T) {
	ctx := testContext(t)
	p := newPair(ctx, t, guestConfig{define: true})
	params := postcopyParams()
	params.Persistent, params.UndefineSource, params.BandwidthPostcopy = true, true, 0
	p.describe(ctx, "a pending change")
	w := p.begin(ctx, params).prepare(ctx)
	done := w.early(ctx)
	if err := p.a.StartPostcopy(ctx, p.name); err != nil {
		t.Fatal(err)
	}
	if err := <-w.perf; err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := p.a.Confirm(ctx, w.offer, w.params, w.ticket, true); err != nil {
		t.Error(err)
	}
	p.whole(ctx, migrate.SideDestination)
	d, err := p.b.lookup(ctx, p.name)
	if err != nil {
		t.Fatal(err)
	}
	xml, err := look(ctx, p.b.c, func(l *libvirt.Libvirt) (string, error) { return l.DomainGetXMLDesc(d, libvirt.DomainXMLInactive) })
	if err != nil || !strings.Contains(xml, "a pending change") {
		t.Errorf("the definition did not come along: %v\n%s", err, xml)
	}
}

// describe changes the definition of the running guest, for its next start.
func (p *pair) describe(ctx context.Context, text string) {
	p.t.Helper()
	err := p.a.act(ctx, p.name, func(l *libvirt.Libvirt, d libvirt.Domain) error {
		return l.DomainSetMetadata(d, int32(libvirt.DomainMetadataDescription), libvirt.OptString{text}, nil, nil, libvirt.DomainAffectConfig)
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

// TestT4ClientDiesAfterEarlyFinish: whatever moment it dies in, the guest arrives. Without the early Finish it is lost
// here (TestT4ClientDiesBeforeFinishOfPostcopy).
func TestT4ClientDiesAfterEarlyFinish(t *testing.T) {
	ctx := testContext(t)
	p := newPair(ctx, t, guestConfig{})
	w := p.begin(ctx, postcopyParams()).prepare(ctx)
	done := w.early(ctx)
	if err := p.a.StartPostcopy(ctx, p.name); err != nil {
		t.Fatal(err)
	}
	if err := <-w.perf; err != nil {
		t.Fatal(err)
	}
	p.die(ctx)
	<-done
	p.until(ctx, "all RAM is at the destination", func() bool { return p.runOf(ctx, p.b) == migrate.RunRunning })
	p.want(ctx, "", migrate.RunRunning, false)
	p.whole(ctx, migrate.SideDestination)
}

// TestT4EarlyFinishOfAFailure: Perform fails before the switch, so the guest goes on at home.
func TestT4EarlyFinishOfAFailure(t *testing.T) {
	ctx := testContext(t)
	p := newPair(ctx, t, guestConfig{})
	w := p.begin(ctx, postcopyParams()).prepare(ctx)
	done := w.early(ctx)
	p.killQEMU(p.hostB)
	if err := <-w.perf; err == nil {
		t.Error("Perform succeeded without a destination")
	}
	if err := <-done; !errors.Is(err, migrate.ErrNotLanded) {
		t.Errorf("Finish without a guest: %v", err)
	}
	p.want(ctx, migrate.RunRunning, "", false)
	p.whole(ctx, migrate.SideSource)
}
