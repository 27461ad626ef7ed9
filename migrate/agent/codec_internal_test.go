package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/grpc/mem"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// wire gives what the codec writes, in one piece or in many.
func wire(t testing.TB, v any) []byte {
	t.Helper()
	b, err := codec{}.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b.Materialize()
}

func slices(p []byte, size int) mem.BufferSlice {
	var out mem.BufferSlice
	for len(p) > 0 {
		n := min(size, len(p))
		out = append(out, mem.SliceBuffer(p[:n]))
		p = p[n:]
	}
	return out
}

func TestCodecInPieces(t *testing.T) {
	in := &switching{Handle: 7, setAndH: [][]byte{{1, 2, 3}, {}, bytes.Repeat([]byte{9}, 1000)}}
	for _, size := range []int{1, 7, 1 << 20} {
		var out switching
		if err := (codec{}).Unmarshal(slices(wire(t, in), size), &out); err != nil || !reflect.DeepEqual(&out, in) {
			t.Errorf("in pieces of %d: %+v, %v", size, out, err)
		}
	}
}

// A message of a future version, a damaged one, one that claims too much: all are refused, without allocating what they claim.
func TestCodecIsStrict(t *testing.T) {
	frame := func(text, rest string) []byte {
		return append(append([]byte{0, 0, byte(len(text) >> 8), byte(len(text))}, text...), rest...)
	}
	const noParts = "\x00\x00\x00\x00"
	good := frame(`{"handle":1,"bandwidth":2,"paging":3}`, noParts)
	if err := (codec{}).Unmarshal(slices(good, 5), &tuning{}); err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string][]byte{
		"unknown field":        frame(`{"handle":1,"novelty":2}`, noParts),
		"two objects":          frame(`{"handle":1}{"handle":2}`, noParts),
		"wrong type":           frame(`{"handle":"1"}`, noParts),
		"no JSON":              frame(`handle`, noParts),
		"nothing":              {},
		"cut in the length":    good[:3],
		"cut in the JSON":      good[:9],
		"cut before the parts": good[:len(good)-1],
		"bytes behind the end": append(bytes.Clone(good), 0),
		"parts for none":       frame(`{"handle":1}`, "\x00\x00\x00\x01\x00\x00\x00\x00"),
		"claims 4 GiB":         frame(`{}`, "")[:0:0],
	} {
		if err := (codec{}).Unmarshal(slices(p, 100), &tuning{}); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	huge := frame(`{"handle":1}`, "\x00\x00\x00\x01\xff\xff\xff\xff")
	many := frame(`{"handle":1}`, "\xff\xff\xff\xff")
	for name, p := range map[string][]byte{"a part of 4 GiB": huge, "4 G parts": many, "JSON of 4 GiB": []byte("\xff\xff\xff\xff{}")} {
		if n := testing.AllocsPerRun(1, func() {
			if (codec{}).Unmarshal(slices(p, 100), &fetching{}) == nil {
				t.Errorf("%s is taken", name)
			}
		}); n > 100 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	if _, err := (codec{}).Marshal(&fetching{set: make([][]byte, maxParts+1)}); err == nil {
		t.Error("too many parts are written")
	}
	if _, err := (codec{}).Marshal(&Guest{Name: strings.Repeat("x", maxJSON)}); err == nil {
		t.Error("too long a JSON is written")
	}
}

func FuzzCodec(f *testing.F) {
	f.Add(wire(f, &tuning{1, 2, 3}))
	f.Add(wire(f, &switching{Handle: 7, setAndH: [][]byte{{1}, {}}}))
	f.Add(wire(f, &SourceSpec{Regions: []Region{{Block: ram.Block{Name: "a", Size: 4096, PageSize: 4096}}}}))
	f.Fuzz(func(t *testing.T, p []byte) {
		for _, v := range []any{&tuning{}, &switching{}, &harvested{}, &SourceSpec{}, &DestSpec{}, &progressing{}} {
			if (codec{}).Unmarshal(slices(p, 64), v) != nil {
				continue
			}
			again := reflect.New(reflect.TypeOf(v).Elem()).Interface()
			if err := (codec{}).Unmarshal(slices(wire(t, v), 1<<20), again); err != nil {
				t.Fatalf("%T: what was read cannot be read again: %v", v, err)
			}
		}
	})
}

// fuzzBlocks are what sets are read for.
func fuzzBlocks() []ram.Block {
	return []ram.Block{{Name: "a", Size: 1 << 20, PageSize: 4096}, {Name: "b", Size: 70 << 12, PageSize: 4096}}
}

func TestSetsTravel(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	blocks := []ram.Block{{Name: "a", Size: 1 << 32, PageSize: 4096}}
	for _, runs := range []int{0, 1, 10, 30000, 200000} {
		s := ram.NewSet(blocks)
		for range runs {
			lo := rng.IntN(s[0].Len() - 4)
			s[0].SetRange(lo, lo+1+rng.IntN(3))
		}
		p, err := encodeSet(s)
		if err != nil {
			t.Fatal(err)
		}
		back, err := decodeSet(p, blocks)
		if err != nil || !back[0].Equal(s[0]) {
			t.Errorf("%d runs: %v", runs, err)
		}
		if most := s[0].Len()/8 + 64; len(p[0]) > most || runs < 100 && len(p[0]) > 200 {
			t.Errorf("%d runs take %d bytes", runs, len(p[0]))
		}
	}
	if _, err := encodeSet(ram.Set{nil}); err == nil {
		t.Error("a set without pages is written")
	}
}

func TestSetsAreBounded(t *testing.T) {
	other, err := encodeSet(ram.NewSet([]ram.Block{{Name: "a", Size: 1 << 21, PageSize: 4096}}))
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := ram.NewBitmap(512).MarshalBinary()
	ok := []byte(runsMark)
	for name, p := range map[string][][]byte{
		"one block": {ok}, "three": {ok, ok, ok}, "nothing": {nil, nil}, "a bitmap of another size": {raw, ok},
		"a run behind the end": {append(ok, 0x80, 2, 1), ok}, "a run too long": {append(ok, 0, 0x81, 2), ok}, "no length": {append(ok, 0), ok},
		"an empty run": {append(ok, 3, 0), ok}, "a huge gap": {append(ok, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1), ok},
	} {
		if _, err := decodeSet(p, fuzzBlocks()); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	if _, err := decodeSet(append(other, ok), fuzzBlocks()); err != nil {
		t.Error(err) // runs do not tell of the size, and nothing is behind the end
	}
}

func FuzzSet(f *testing.F) {
	s := ram.NewSet(fuzzBlocks())
	s[0].SetRange(3, 9)
	p, _ := encodeSet(s)
	f.Add(p[0], p[1])
	raw, _ := s[0].MarshalBinary()
	f.Add(raw, p[1])
	f.Fuzz(func(t *testing.T, a, b []byte) {
		s, err := decodeSet([][]byte{a, b}, fuzzBlocks())
		if err != nil {
			return
		}
		p, err := encodeSet(s)
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodeSet(p, fuzzBlocks())
		if err != nil || !again[0].Equal(s[0]) || !again[1].Equal(s[1]) {
			t.Fatal("what was read is written differently", err)
		}
	})
}

func FuzzRefs(f *testing.F) {
	p, _ := encodeRefs([]PageRef{{0, 3}, {1, 69}, {0, 0}})
	f.Add(p)
	f.Fuzz(func(t *testing.T, p []byte) {
		refs, err := decodeRefs(p, fuzzBlocks())
		if err != nil {
			return
		}
		for _, r := range refs {
			if r.Page < 0 || r.Page >= fuzzBlocks()[r.Block].Pages() {
				t.Fatalf("%+v", r)
			}
		}
		q, err := encodeRefs(refs)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := decodeRefs(q, fuzzBlocks()); err != nil || !reflect.DeepEqual(again, refs) {
			t.Fatalf("%v came back as %v, %v", refs, again, err)
		}
	})
}

func TestRefsAreBounded(t *testing.T) {
	for _, refs := range [][]PageRef{{{2, 0}}, {{0, 256}}, {{1, 70}}, make([]PageRef, maxHot+1)} {
		p, err := encodeRefs(refs)
		if err == nil {
			_, err = decodeRefs(p, fuzzBlocks())
		}
		if err == nil {
			t.Errorf("%d pages, the first %+v, are taken", len(refs), refs[0])
		}
	}
}

// Every sentinel of migrate, of its storage and of this package keeps its identity: a new one has to be entered.
func TestAllSentinelsTravel(t *testing.T) {
	declared := 0
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(files, "../errors.go", "../storage/errors.go") {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if v, ok := n.(*ast.ValueSpec); ok && strings.HasPrefix(v.Names[0].Name, "Err") {
				declared++
			}
			return true
		})
	}
	foreign := 5 // of context, os and io/fs
	if got := len(sentinels()) - foreign; got != declared {
		t.Errorf("%d sentinels are declared, %d can travel", declared, got)
	}
	names := map[string]bool{}
	for _, s := range sentinels() {
		if names[s.name] {
			t.Errorf("%s is there twice", s.name)
		}
		names[s.name] = true
		if back := errorOf(trailerOf(s.err)); !errors.Is(back, s.err) || back.Error() != s.err.Error() {
			t.Errorf("%v came back as %v", s.err, back)
		}
	}
}

func FuzzError(f *testing.F) {
	b, _ := json.Marshal(encodeError(&migrate.OpError{Op: "x", Phase: migrate.PhasePaging, Err: migrate.ErrPaused, Fix: "f"}, 0))
	f.Add(b)
	f.Add([]byte(`{"op":{"op":"x","cause":{"op":{"top":true}}}}`))
	f.Fuzz(func(t *testing.T, p []byte) {
		var w wireError
		if strict(p, &w) != nil {
			return
		}
		if err := w.decode(); err != nil {
			_ = err.Error()
			_ = migrate.FixOf(err)
			_ = encodeError(err, 0)
		}
	})
}

// An error as deep as the recursion of one that wraps itself by mistake does not end the agent.
func TestDeepErrors(t *testing.T) {
	var err error = migrate.ErrBusy
	for range 100 {
		err = &migrate.OpError{Op: strings.Repeat("x", 10000), Err: err}
	}
	md := trailerOf(err)
	if len(md.Get(errorKey)[0]) > 64<<10 {
		t.Errorf("%d bytes of trailer", len(md.Get(errorKey)[0]))
	}
	if errorOf(md) == nil {
		t.Error("the error is lost")
	}
}
