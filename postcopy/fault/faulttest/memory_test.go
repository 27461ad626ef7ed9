package faulttest_test

import (
	"context"
	"errors"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/postcopy/fault"
	"github.com/vmmigrate/vmmigrate/postcopy/fault/faulttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const page = 4096

func TestTouchWaitsForItsPage(t *testing.T) {
	m := faulttest.New(page, false, fault.Range{Start: page, Length: 4 * page})
	got := make(chan byte, 1)
	go func() {
		b, _ := m.Touch(t.Context(), 2*page+5)
		got <- b[0]
	}()
	if err := m.Wait(); err != nil {
		t.Fatal(err)
	}
	events := make([]fault.Event, 2)
	if n, err := m.Read(events); n != 1 || err != nil || events[0].Kind != sys.EventPageFault || events[0].Addr != 2*page {
		t.Fatalf("%d: %+v, %v", n, events[0], err)
	}
	if n, err := m.Read(events); n != 0 || !errors.Is(err, syscall.EAGAIN) {
		t.Fatal("a message is told twice", err)
	}
	if err := m.Wake(2*page, page); err != nil { // it looks again, and is told again
		t.Fatal(err)
	}
	m.WaitRead(1)
	if err := m.Wait(); err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 3*page)
	data[page] = 7
	if n, err := m.Copy(page, data); n != 3*page || err != nil {
		t.Fatal(n, err)
	}
	if b := <-got; b != 7 {
		t.Error(b)
	}
	if n, err := m.ZeroPage(3*page, 2*page); n != 0 || !errors.Is(err, syscall.EEXIST) {
		t.Error(n, err)
	}
	if n, err := m.ZeroPage(4*page, 2*page); n != page || !errors.Is(err, syscall.ENOENT) {
		t.Error(n, err)
	}
}

// From an event to its reading, placements are refused, and the thread waits.
func TestDiscardHoldsPlacementsUp(t *testing.T) {
	m := faulttest.New(page, false, fault.Range{Start: page, Length: 4 * page})
	data := make([]byte, page)
	if _, err := m.Copy(page, data); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.Discard(page, page, true)
	}()
	if err := m.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Copy(2*page, data); !errors.Is(err, syscall.EAGAIN) {
		t.Error(err)
	}
	var e [1]fault.Event
	if n, err := m.Read(e[:]); n != 1 || err != nil || e[0].Kind != sys.EventRemove || e[0].End != 2*page {
		t.Errorf("%+v, %v", e, err)
	}
	<-done
	if m.Page(page) != nil {
		t.Error("the page is still there")
	}
}

func TestEnds(t *testing.T) {
	m := faulttest.New(page, true, fault.Range{Start: page, Length: 4 * page})
	if _, err := m.ZeroPage(page, page); !errors.Is(err, syscall.EINVAL) {
		t.Error(err)
	}
	if err := m.Interrupt(); err != nil || !errors.Is(m.Wait(), fault.ErrInterrupted) {
		t.Error("no interrupt")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.Touch(ctx, page); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := m.Unregister(page, 4*page); err != nil || m.Watched() {
		t.Error(err)
	}
	if b, err := m.Touch(t.Context(), page); err != nil || len(b) != page || b[9] != 0 {
		t.Error(err)
	}
	m.Exit()
	if _, err := m.Copy(page, make([]byte, page)); !errors.Is(err, syscall.ESRCH) {
		t.Error(err)
	}
}
