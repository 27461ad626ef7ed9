package oracle

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func messages() []message {
	return []message{
		{kind: msgPing, id: 1},
		{kind: msgPong, id: 1<<64 - 1, pong: Pong{Seal: Seal{1, 2, 3, 4, 5, 6, 7, 8 * time.Second}, Ready: true}},
		{kind: msgPong, pong: Pong{Findings: true, Failed: true}},
		{kind: msgCall, id: 2, op: opVerify, offset: 7, data: []byte("idle")},
		{kind: msgReply, id: 3, status: statusDone, total: 10, offset: 7, data: []byte("abc")},
		{kind: msgReply, id: 3, status: statusPending, data: []byte{}},
	}
}

func TestMessagesAreReadBack(t *testing.T) {
	for _, want := range messages() {
		b := want.append(nil)
		got, err := decode(b)
		if err != nil {
			t.Errorf("%+v: %v", want, err)
			continue
		}
		if d := cmp.Diff(want, got, cmp.AllowUnexported(message{}, Pong{})); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
	}
}

func TestTheLongestMessagesFit(t *testing.T) {
	call := message{kind: msgCall, op: opWorkload, data: make([]byte, MaxArgument)}
	reply := message{kind: msgReply, status: statusDone, total: maxPart, data: make([]byte, maxPart)}
	for _, m := range []message{call, reply} {
		if _, err := decode(m.append(nil)); err != nil {
			t.Error(err)
		}
	}
	if n := len(reply.append(nil)); n != MaxMessage {
		t.Errorf("the longest reply has %d bytes, want %d", n, MaxMessage)
	}
}

func TestDecodeRefuses(t *testing.T) {
	good := func(i int) []byte { return messages()[i].append(nil) }
	spoil := func(i, at int, to byte) []byte {
		b := good(i)
		b[at] = to
		return b
	}
	for name, b := range map[string][]byte{
		"nothing":               nil,
		"short":                 good(0)[:15],
		"long":                  make([]byte, MaxMessage+1),
		"other magic":           spoil(0, 0, 'x'),
		"next version":          spoil(0, 4, 2),
		"type 0":                spoil(0, 5, 0),
		"type 5":                spoil(0, 5, 5),
		"a ping with a body":    append(spoil(0, 7, 1), 0),
		"length that lies":      spoil(3, 7, 200),
		"cut":                   good(3)[:18],
		"argument too long":     message{kind: msgCall, op: opWorkload, data: make([]byte, MaxArgument+1)}.append(nil),
		"pong with a flag more": spoil(1, headerSize+pongSize-1, 0x80),
		"negative clock":        spoil(1, headerSize+56, 0x80),
		"op 0":                  spoil(3, headerSize, 0),
		"op 5":                  spoil(3, headerSize, 5),
		"offset beyond all":     spoil(3, headerSize+1, 0x80),
		"status 0":              spoil(4, headerSize, 0),
		"status 4":              spoil(4, headerSize, 4),
		"total beyond all":      spoil(4, headerSize+1, 0x80),
		"part beyond the total": spoil(4, headerSize+8, 8),
	} {
		if _, err := decode(b); !errors.Is(err, ErrMessage) {
			t.Errorf("%s: %v, want ErrMessage", name, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, m := range messages() {
		f.Add(m.append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decode(b)
		if err != nil {
			if !errors.Is(err, ErrMessage) {
				t.Fatal(err)
			}
			return
		}
		if again := m.append(nil); !bytes.Equal(again, b) {
			t.Fatalf("%x was read as %+v, which is written %x", b, m, again)
		}
	})
}

// The guest reads its pages from memory that a migration may have spoilt in any
// way: that must not crash it.
func FuzzExamine(f *testing.F) {
	page := make([]byte, PageSize)
	f.Add(page[:10])
	record{pageMagic, 1, 2, 3, 4, 5}.put(page, 6)
	f.Add(bytes.Clone(page))
	f.Fuzz(func(t *testing.T, b []byte) {
		page := make([]byte, PageSize)
		copy(page, b)
		r, shape := examine(page, pageMagic, 4, 6)
		if shape != shapeWhole || r.incarnation != 4 {
			return
		}
		again := make([]byte, PageSize)
		r.put(again, 6)
		if !bytes.Equal(again, page) {
			t.Fatal("a page that is no record passed for one")
		}
	})
}
