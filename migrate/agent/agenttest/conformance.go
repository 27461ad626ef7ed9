package agenttest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/migrate/storage"
)

// Reach makes a way to an agent that ends with the test.
type Reach func(t *testing.T, impl agent.Agent) agent.Agent

// Conformance shows that an agent is the same at the end of this way as it is without one.
func Conformance(t *testing.T, reach Reach) {
	t.Helper()
	for name, f := range map[string]func(*testing.T, Reach){
		"hello": hello, "specs arrive": specs, "sets arrive": sets, "figures arrive": figures, "progress": progress,
		"errors": failures, "cancel": cancelled, "deadline": deadline, "tune while paging": tuneWhilePaging,
		"close": closes, "close while missing": closeWhileMissing,
		"images": images, "disks": disks, "exports": exports, "exports end": exportsEnd, "clients of exports": exportClients,
	} {
		t.Run(name, func(t *testing.T) { f(t, reach) })
	}
}

// blocks are a small, a large and a huge-page block.
func blocks() []ram.Block {
	return []ram.Block{{Name: "pc.ram", Size: 1 << 30, PageSize: 4096}, {Name: "rom", Size: 65 << 12, PageSize: 4096},
		{Name: "huge", Size: 64 << 21, PageSize: 2 << 20}}
}

func regions() []agent.Region {
	var out []agent.Region
	for i, b := range blocks() {
		out = append(out, agent.Region{Block: b, Addr: uint64(i+1) << 40})
	}
	return out
}

func sourceSpec() agent.SourceSpec {
	return agent.SourceSpec{Migration: "m-1", Guest: agent.Guest{Name: "web", UUID: "u", PID: 7, PIDFile: "/p", Monitor: "/m"},
		Regions: regions(), Tracker: "uffd-wp", Stream: "/s", Resume: true, Reuse: true,
		Link: agent.Link{Addr: "b:1", Ports: [2]int{1, 2}, Peer: []byte{1, 0, 255}, Token: "secret", Conns: 3}}
}

func destSpec() agent.DestSpec {
	return agent.DestSpec{Migration: "m-1", Guest: agent.Guest{Name: "web"}, Regions: regions(), Stream: "/s", Lazy: true,
		Bandwidth: 1 << 40, BandwidthPaging: 3, Prepage: "bubble", Reuse: true, ReuseRAM: "/r", Link: agent.Link{Addr: "127.0.0.1:4711", Token: "secret"}}
}

func source(t *testing.T, a agent.Agent) agent.Source {
	t.Helper()
	s, err := a.OpenSource(t.Context(), sourceSpec())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func dest(t *testing.T, a agent.Agent) agent.Dest {
	t.Helper()
	d, err := a.OpenDest(t.Context(), destSpec())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func hello(t *testing.T, reach Reach) {
	want := agent.Identity{Version: "v1", Protocol: agent.Protocol, Host: "a", PID: 4711, Certificate: []byte{0, 1, 2}}
	got, err := reach(t, &Fake{Identity: want}).Hello(t.Context())
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
}

func specs(t *testing.T, reach Reach) {
	f := &Fake{Held: agent.Held{Usable: true, Bytes: 1 << 40, Kept: time.Unix(1767323045, 0).UTC(), Why: "two blocks differ"}}
	a := reach(t, f)
	source(t, a)
	d := dest(t, a)
	if d.Held() != f.Held {
		t.Errorf("it holds %+v, want %+v", d.Held(), f.Held)
	}
	if got, _ := f.Last("OpenSource"); !reflect.DeepEqual(got.With, sourceSpec()) {
		t.Error(cmp.Diff(sourceSpec(), got.With))
	}
	if got, _ := f.Last("OpenDest"); !reflect.DeepEqual(got.With, destSpec()) {
		t.Error(cmp.Diff(destSpec(), got.With))
	}
	if d.Addr() != destSpec().Link.Addr {
		t.Errorf("listens on %q", d.Addr())
	}
}

// somePages are sets that are written in different ways on a wire.
func somePages() map[string]ram.Set {
	none, all, few, every2nd := ram.NewSet(blocks()), ram.NewSet(blocks()), ram.NewSet(blocks()), ram.NewSet(blocks())
	all.Fill()
	few[0].SetRange(1000, 1003)
	few[0].Set(1<<18 - 1)
	few[1].Set(0)
	few[2].Set(63)
	for _, b := range every2nd {
		for i := 0; i < b.Len(); i += 2 {
			b.Set(i)
		}
	}
	return map[string]ram.Set{"none": none, "all": all, "few": few, "every other": every2nd}
}

func sets(t *testing.T, reach Reach) {
	f := &Fake{}
	a := reach(t, f)
	s, d, x := source(t, a), dest(t, a), exported(t, a)
	hot := []agent.PageRef{{Block: 2, Page: 63}, {Block: 0, Page: 0}, {Block: 0, Page: 1<<18 - 1}, {Block: 1, Page: 64}}
	for name, set := range somePages() {
		f.Harvested = agent.Harvest{Dirty: set, Took: 3 * time.Microsecond, Tracker: "hash"}
		h, err := s.Harvest(t.Context())
		if err != nil || !equal(h.Dirty, set) || h.Took != f.Harvested.Took || h.Tracker != "hash" {
			t.Errorf("%s: harvest of %d pages: %v", name, set.Count(), err)
		}
		w, err := x.Written(t.Context())
		if err != nil || !equal(w.Dirty, set) || w.Took != f.Harvested.Took || w.Tracker != "hash" {
			t.Errorf("%s: %d pages written: %v", name, w.Dirty.Count(), err)
		}
		if _, err := d.Fetch(t.Context(), set, nil); err != nil {
			t.Error(err)
		}
		if got, _ := f.Last("Fetch"); !equal(got.With.(ram.Set), set) {
			t.Errorf("%s: other pages to fetch", name)
		}
		if err := d.Pass(t.Context(), set); err != nil {
			t.Error(err)
		}
		if got, _ := f.Last("Pass"); !equal(got.With.(ram.Set), set) {
			t.Errorf("%s: other pages are stale", name)
		}
		if err := d.Switch(t.Context(), set, hot); err != nil {
			t.Error(err)
		}
		got, _ := f.Last("Switch")
		if sw := got.With.(Switched); !equal(sw.Missing, set) || !reflect.DeepEqual(sw.Hot, hot) {
			t.Errorf("%s: other pages missing, or hot %v", name, sw.Hot)
		}
	}
}

func equal(a, b ram.Set) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !a[i].Equal(b[i]) {
			return false
		}
	}
	return true
}

// Sentinels are the errors that keep their identity.
func Sentinels() []error {
	return []error{migrate.ErrNoDomain, migrate.ErrNotSupported, migrate.ErrBlocked, migrate.ErrCancelled, migrate.ErrTimeLimit,
		migrate.ErrPaused, migrate.ErrOwnerUnknown, migrate.ErrNotLanded, migrate.ErrLinkLost, migrate.ErrBusy, migrate.ErrDetached,
		migrate.ErrNotUndone, migrate.ErrNotReleased, migrate.ErrNotBegun, migrate.ErrNoMigration, agent.ErrVersion,
		storage.ErrExists, storage.ErrNoRoom, storage.ErrInUse, storage.ErrForeign, storage.ErrNoTool}
}

func failures(t *testing.T, reach Reach) {
	f := &Fake{Fails: map[string]error{}}
	a := reach(t, f)
	s, d, x := source(t, a), dest(t, a), exported(t, a)
	calls := map[string]func() error{
		"Hello":         func() error { _, err := a.Hello(t.Context()); return err },
		"OpenSource":    func() error { _, err := a.OpenSource(t.Context(), sourceSpec()); return err },
		"OpenDest":      func() error { _, err := a.OpenDest(t.Context(), destSpec()); return err },
		"Harvest":       func() error { _, err := s.Harvest(t.Context()); return err },
		"Stats":         func() error { _, err := s.Stats(t.Context()); return err },
		"StreamUp":      func() error { return s.StreamUp(t.Context()) },
		"Fetch":         func() error { _, err := d.Fetch(t.Context(), ram.NewSet(blocks()), nil); return err },
		"Tune":          func() error { return d.Tune(t.Context(), 0, 0) },
		"Pass":          func() error { return d.Pass(t.Context(), ram.NewSet(blocks())) },
		"Switch":        func() error { return d.Switch(t.Context(), ram.NewSet(blocks()), nil) },
		"Release":       func() error { return d.Release(t.Context()) },
		"Page":          func() error { _, err := d.Page(t.Context(), nil); return err },
		"Keep":          func() error { _, err := s.Keep(t.Context(), nil); return err },
		"CloseSource":   func() error { return s.Close(t.Context()) },
		"Export":        func() error { _, err := a.Export(t.Context(), exportSpec()); return err },
		"Wait":          func() error { return x.Wait(t.Context()) },
		"DescribeImage": func() error { _, err := a.DescribeImage(t.Context(), storage.Query{}); return err },
		"StageImage":    func() error { _, err := a.StageImage(t.Context(), storage.Spec{}); return err },
		"PlaceImage":    func() error { return a.PlaceImage(t.Context(), storage.Made{}) },
		"RemoveImage":   func() error { return a.RemoveImage(t.Context(), storage.Made{}) },
		"SyncImages":    func() error { return a.SyncImages(t.Context(), nil, false) },
		"Written":       func() error { _, err := x.Written(t.Context()); return err },
		"CloseExport":   func() error { return x.Close(t.Context()) },
		"CloseDest":     func() error { return d.Close(t.Context(), false) },
	}
	maps.Copy(calls, diskCalls(t, a))
	for _, is := range Sentinels() {
		for _, err := range shapes(is) {
			for name, call := range calls {
				f.Fails = map[string]error{name: err}
				if diff := differ(call(), err, is); diff != "" {
					t.Errorf("%s: %s", name, diff)
				}
			}
		}
	}
}

// shapes are ways in which errors come.
func shapes(is error) []error {
	op := &migrate.OpError{Op: "read «that»\x00", Phase: migrate.PhasePaging, Side: migrate.SideDestination,
		Owner: migrate.OwnerUnknown, Err: fmt.Errorf("deep: %w", is), Fix: "do this"}
	return []error{is, fmt.Errorf("around: %w", is), op, &migrate.OpError{Op: "bare", Err: is}, fmt.Errorf("around: %w", op),
		errors.Join(errors.New("another"), op), &migrate.OpError{Op: "outer", Err: op}}
}

// differ tells how an error that arrived differs from the one that was sent.
func differ(got, sent, is error) string {
	if got == nil || got.Error() != sent.Error() {
		return fmt.Sprintf("got %q, sent %q", fmt.Sprint(got), sent)
	}
	for _, other := range Sentinels() {
		if errors.Is(got, other) != (other == is) {
			return fmt.Sprintf("%q is %v: %t", got, other, errors.Is(got, other))
		}
	}
	var a, b *migrate.OpError
	if errors.As(got, &a) != errors.As(sent, &b) || migrate.FixOf(got) != migrate.FixOf(sent) {
		return fmt.Sprintf("%q: op %+v, fix %q; sent %+v, %q", got, a, migrate.FixOf(got), b, migrate.FixOf(sent))
	}
	if b != nil && (a.Op != b.Op || a.Phase != b.Phase || a.Side != b.Side || a.Owner != b.Owner || a.Fix != b.Fix) {
		return fmt.Sprintf("%q: op %+v, sent %+v", got, a, b)
	}
	return ""
}

// A cancelled call ends at the agent, too, and before the next one begins.
func cancelled(t *testing.T, reach Reach) {
	f := &Fake{}
	d := dest(t, reach(t, f))
	for _, method := range []string{"Fetch", "Page", "Release"} {
		at := f.Park(method)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			switch method {
			case "Fetch":
				_, err := d.Fetch(ctx, ram.NewSet(blocks()), nil)
				ended <- err
			case "Page":
				_, err := d.Page(ctx, nil)
				ended <- err
			default:
				ended <- d.Release(ctx)
			}
		}()
		<-at.Here
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", method, err)
		}
		if err := d.Tune(t.Context(), 1, 1); err != nil {
			t.Error(err)
		}
		var order []string
		for _, a := range f.Asked() {
			order = append(order, a.Method)
		}
		if want := method + " " + method + " given up Tune"; !strings.HasSuffix(strings.Join(order, " "), want) {
			t.Errorf("%v, want %s at the end", order, want)
		}
	}
}

func deadline(t *testing.T, reach Reach) {
	f := &Fake{}
	s := source(t, reach(t, f))
	at := f.Park("Harvest")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Harvest(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	<-at.Ended // the agent's context has ended, too
	if _, err := s.Harvest(ctx); !errors.Is(err, context.DeadlineExceeded) && err != nil {
		t.Errorf("after the deadline: %v", err)
	}
}

func tuneWhilePaging(t *testing.T, reach Reach) {
	f := &Fake{}
	d := dest(t, reach(t, f))
	at := f.Park("Page")
	ended := make(chan error, 1)
	go func() { _, err := d.Page(t.Context(), nil); ended <- err }()
	<-at.Here
	if err := d.Tune(t.Context(), 5, 6); err != nil {
		t.Error(err)
	}
	close(at.Go)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func closes(t *testing.T, reach Reach) {
	f := &Fake{}
	a := reach(t, f)
	s, d := source(t, a), dest(t, a)
	for range 2 {
		if err := errors.Join(s.Close(t.Context()), d.Close(t.Context(), false)); err != nil {
			t.Error(err)
		}
	}
	other := source(t, a) // an end of its own
	for range 2 {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := a.Hello(t.Context()); !errors.Is(err, agent.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := other.Harvest(t.Context()); !errors.Is(err, agent.ErrClosed) {
		t.Errorf("an end after Close: %v", err)
	}
}

func closeWhileMissing(t *testing.T, reach Reach) {
	f := &Fake{}
	d := dest(t, reach(t, f))
	missing := ram.NewSet(blocks())
	missing[1].Set(3)
	if err := d.Switch(t.Context(), missing, nil); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(t.Context(), false); err == nil || migrate.FixOf(err) != errMissing.Fix {
		t.Errorf("closed although pages are missing: %v", err)
	}
	if _, err := d.Page(t.Context(), nil); err != nil {
		t.Errorf("the end is no longer open: %v", err)
	}
	if err := d.Switch(t.Context(), missing, nil); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(t.Context(), true); err != nil {
		t.Errorf("not given up: %v", err)
	}
}
