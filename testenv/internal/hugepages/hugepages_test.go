package hugepages

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// machine is a pool that can give so many pages and no more.
type machine struct {
	pages, most int
}

var errDied = errors.New("killed")

func (m *machine) get() (int, error) { return m.pages, nil }

func (m *machine) set(n int) error {
	m.pages = min(n, m.most)
	return nil
}

func ledger(t *testing.T, m *machine) Ledger {
	dir := t.TempDir()
	return Ledger{path: filepath.Join(dir, RecordFile), pool: m, lock: dir}
}

func (l Ledger) want(t *testing.T, held int) {
	t.Helper()
	if got, err := l.Held(); err != nil || got != held {
		t.Errorf("held %d, %v, want %d", got, err, held)
	}
}

func TestWhatIsBorrowedIsReturnedAndNoMore(t *testing.T) {
	m := &machine{pages: 10, most: 1000}
	l, other := ledger(t, m), ledger(t, m)
	for _, err := range []error{l.Borrow(256), other.Borrow(100), l.Borrow(44)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if m.pages != 410 {
		t.Errorf("the pool has %d pages", m.pages)
	}
	if err := l.Return(44); err != nil || m.pages != 366 {
		t.Errorf("the pool has %d pages, %v", m.pages, err)
	}
	l.want(t, 256)
	for range 2 {
		if err := l.ReturnAll(); err != nil || m.pages != 110 {
			t.Errorf("the pool has %d pages, %v", m.pages, err)
		}
	}
	if err := other.Return(1000); err != nil || m.pages != 10 {
		t.Errorf("the pool has %d pages, %v: more was returned than held", m.pages, err)
	}
}

func TestTooFewAreNone(t *testing.T) {
	m := &machine{pages: 10, most: 50}
	l := ledger(t, m)
	err := l.Borrow(100)
	if !errors.Is(err, ErrNone) || !strings.Contains(err.Error(), "40 of 100") || m.pages != 10 {
		t.Errorf("the pool has %d pages, %v", m.pages, err)
	}
	l.want(t, 0)
}

func TestADeathInTheMiddleOfAChangeIsNoLoss(t *testing.T) {
	for name, moved := range map[string]int{"before": 0, "half way": 60, "after": 100} {
		m := &machine{pages: 10, most: 1000}
		l := ledger(t, m)
		if err := l.Borrow(20); err != nil {
			t.Fatal(err)
		}
		if err := l.write(record{Held: 20, Moving: &move{From: 30, To: 130}}); err != nil {
			t.Fatal(err)
		}
		m.pages += moved
		if err := l.ReturnAll(); err != nil || m.pages != 10 {
			t.Errorf("borrowing, %s: the pool has %d pages, %v", name, m.pages, err)
		}
		// The same for pages that were on their way back.
		m.pages = 110 - moved
		if err := l.write(record{Held: 100, Moving: &move{From: 110, To: 10}}); err != nil {
			t.Fatal(err)
		}
		if err := l.ReturnAll(); err != nil || m.pages != 10 {
			t.Errorf("returning, %s: the pool has %d pages, %v", name, m.pages, err)
		}
	}
}

func TestTheRecordComesBeforeThePool(t *testing.T) {
	m := &machine{pages: 10, most: 1000}
	l := ledger(t, m)
	l.pool = dying{m}
	if err := l.Borrow(100); !errors.Is(err, errDied) {
		t.Fatal(err)
	}
	l.pool = m
	if err := l.ReturnAll(); err != nil || m.pages != 10 {
		t.Errorf("the pool has %d pages, %v", m.pages, err)
	}
}

// dying is a pool whose process ends once it is changed.
type dying struct{ *machine }

func (d dying) set(n int) error {
	d.machine.pages = n
	return errDied
}

func TestADamagedRecordIsAnError(t *testing.T) {
	m := &machine{pages: 10, most: 1000}
	l := ledger(t, m)
	for _, text := range []string{"", "{", `{"held":-4}`} {
		if err := os.WriteFile(l.path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := l.ReturnAll(); err == nil || !strings.Contains(err.Error(), "damaged") || m.pages != 10 {
			t.Errorf("%q: the pool has %d pages, %v", text, m.pages, err)
		}
	}
}
