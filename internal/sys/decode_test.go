package sys

import (
	"encoding/binary"
	"errors"
	"reflect"
	"slices"
	"syscall"
	"testing"
)

// message lays out a struct uffd_msg.
func message(kind EventKind, words ...uint64) []byte {
	b := make([]byte, messageSize)
	b[0] = byte(kind)
	for i, w := range words {
		binary.NativeEndian.PutUint64(b[8+8*i:], w)
	}
	return b
}

func TestDecodeEvents(t *testing.T) {
	text := slices.Concat(
		message(EventPageFault, FaultWrite|FaultMinor, 0x7f0000001234, 4711),
		message(EventFork, 12),
		message(EventRemap, 0x1000, 0x5000, 0x2000),
		message(EventRemove, 0x1000, 0x3000),
		message(EventUnmap, 0x8000, 0x9000))
	want := []Event{
		{Kind: EventPageFault, Flags: FaultWrite | FaultMinor, Addr: 0x7f0000001234, TID: 4711},
		{Kind: EventFork, FD: 12},
		{Kind: EventRemap, From: 0x1000, To: 0x5000, Length: 0x2000},
		{Kind: EventRemove, Start: 0x1000, End: 0x3000},
		{Kind: EventUnmap, Start: 0x8000, End: 0x9000},
	}
	got := make([]Event, 5)
	if n, err := decodeEvents(text, got); n != 5 || err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%d, %v: %+v; want %+v", n, err, got, want)
	}
	for name, tc := range map[string]struct {
		text []byte
		n    int
	}{
		"part of a message":       {text[:40], 0},
		"more than fit":           {slices.Concat(text, text), 0},
		"an unknown kind follows": {slices.Concat(text[:32], message(0x17)), 1},
		"zeros":                   {make([]byte, 32), 0},
	} {
		if n, err := decodeEvents(tc.text, got); n != tc.n || !errors.Is(err, syscall.EPROTO) {
			t.Errorf("%s: %d, %v; want %d, EPROTO", name, n, err, tc.n)
		}
	}
}

func FuzzDecodeEvents(f *testing.F) {
	f.Add(message(EventPageFault, 1, 2, 3))
	f.Add(append(message(EventFork, 7), message(EventUnmap, 1, 2)...))
	f.Fuzz(func(t *testing.T, text []byte) {
		out := make([]Event, 8)
		n, err := decodeEvents(text, out)
		if err == nil && n*messageSize != len(text) {
			t.Errorf("%d messages from %d bytes", n, len(text))
		}
		for _, e := range out[:n] {
			if e.Kind < EventPageFault || e.Kind > EventUnmap {
				t.Errorf("kind %d", e.Kind)
			}
		}
	})
}
