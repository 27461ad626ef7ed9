package handoff

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// The page size under the names that releases have given it, and members that we do not know.
func TestDecodeRegions(t *testing.T) {
	const base = `"base_host_virt_addr":139800000004096,"size":8192,"offset":4096`
	plain := Region{Addr: 139800000004096, Size: 8192, Offset: 4096, PageSize: 4096}
	huge := Region{Addr: 1 << 30, Size: 4 << 20, PageSize: 2 << 20}
	for text, want := range map[string][]Region{
		`[{` + base + `}]`:                                                                                      {plain},
		`[{` + base + `,"page_size_kib":4096}]`:                                                                 {plain},
		`[{` + base + `,"page_size":4096,"page_size_kib":4096}]`:                                                {plain},
		`[{` + base + `,"page_size":4096,"page_size_kib":4}]`:                                                   {plain},
		` [ {` + base + `,"page_size":4096,"shared":{"fd":[7]}} ] `:                                             {plain},
		`[{"base_host_virt_addr":1073741824,"size":4194304,"offset":0,"page_size_kib":2097152},{` + base + `}]`: {huge, plain},
		`[{"base_host_virt_addr":1073741824,"size":4194304,"offset":0,"page_size_kib":2048}]`:                   {huge},
		`[{"base_host_virt_addr":1073741824,"size":4194304,"page_size":2097152}]`:                               {huge},
		`[{"base_host_virt_addr":139800000012288,"size":4096,"offset":12288},{` + base + `}]`:                   {{139800000012288, 4096, 12288, 4096}, plain},
	} {
		if got, err := DecodeRegions([]byte(text)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s\n%+v, %v", text, got, err)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":                  ``,
		"no list":                  `{"base_host_virt_addr":4096,"size":4096,"offset":0}`,
		"an empty list":            `[]`,
		"no address":               `[{"size":4096,"offset":0}]`,
		"no size":                  `[{"base_host_virt_addr":4096,"offset":0}]`,
		"half a page":              `[{"base_host_virt_addr":4096,"size":6144,"offset":0}]`,
		"an odd address":           `[{"base_host_virt_addr":4097,"size":4096,"offset":0}]`,
		"an odd offset":            `[{"base_host_virt_addr":4096,"size":4096,"offset":1}]`,
		"an odd huge address":      `[{"base_host_virt_addr":4096,"size":2097152,"offset":0,"page_size":2097152}]`,
		"a page of 12 KiB":         `[{"base_host_virt_addr":4096,"size":12288,"offset":0,"page_size":12288}]`,
		"page sizes that differ":   `[{"base_host_virt_addr":2097152,"size":2097152,"offset":0,"page_size":4096,"page_size_kib":2097152}]`,
		"a negative size":          `[{"base_host_virt_addr":4096,"size":-4096,"offset":0}]`,
		"a size of 2^63":           `[{"base_host_virt_addr":4096,"size":9223372036854775808,"offset":0}]`,
		"an address of the kernel": `[{"base_host_virt_addr":18446744073709547520,"size":8192,"offset":0}]`,
		"an end in the kernel":     `[{"base_host_virt_addr":72057594037923840,"size":8192,"offset":0}]`,
		"an overlap":               `[{"base_host_virt_addr":8192,"size":4096,"offset":0},{"base_host_virt_addr":4096,"size":8192,"offset":0}]`,
		"twice the same":           `[{"base_host_virt_addr":4096,"size":4096,"offset":0},{"base_host_virt_addr":4096,"size":4096,"offset":0}]`,
		"too much text":            `[` + strings.Repeat(" ", maxMessage) + `]`,
		"too many":                 `[` + strings.Repeat(`{},`, maxRegions) + `{}]`,
		"a huge page size":         `[{"base_host_virt_addr":4096,"size":4096,"offset":0,"page_size":18446744073709551615}]`,
	} {
		if got, err := DecodeRegions([]byte(text)); err == nil {
			t.Errorf("%s is taken: %+v", name, got)
		}
	}
}

func FuzzDecodeRegions(f *testing.F) {
	f.Add([]byte(`[{"base_host_virt_addr":139800000004096,"size":8192,"offset":4096,"page_size":4096,"page_size_kib":4}]`))
	f.Add([]byte(`[{"base_host_virt_addr":1073741824,"size":4194304,"offset":0,"page_size_kib":2048},{"base_host_virt_addr":4096,"size":4096}]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		regions, err := DecodeRegions(text)
		if err != nil {
			return
		}
		h := Handover{Regions: regions}
		for i, b := range h.Blocks() {
			if err := b.Check(); err != nil || h.Addrs()[i]%uint64(b.PageSize) != 0 {
				t.Fatalf("%+v: %v", b, err)
			}
		}
		again, err := EncodeRegions(regions)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := DecodeRegions(again); err != nil || !reflect.DeepEqual(back, regions) {
			t.Fatalf("%+v became %+v: %v", regions, back, err)
		}
	})
}

func TestFileFetch(t *testing.T) {
	text := strings.Repeat("a", 4096) + strings.Repeat("b", 4096) + "end"
	f := &File{From: strings.NewReader(text), Regions: []Region{{Addr: 4096, Size: 4096, PageSize: 4096}, {Addr: 8192, Size: 12288, Offset: 4096, PageSize: 4096}}}
	fetch := func(block int, off int64, n int) string {
		p := []byte(strings.Repeat("?", n))
		holes, err := f.Fetch(t.Context(), block, off, p)
		if err != nil || len(holes) != 0 {
			return fmt.Sprintf("%v %v", err, holes)
		}
		return string(p)
	}
	if got := fetch(0, 0, 4096); got != text[:4096] {
		t.Errorf("first region: %.60q", got)
	}
	if got, want := fetch(1, 0, 8192), text[4096:]+strings.Repeat("\x00", 4093); got != want {
		t.Errorf("second region: %.60q", got)
	}
	for _, past := range []struct {
		block int
		off   int64
		n     int
	}{{1, 8192, 4096}, {1, 4096, 8192}, {0, 4096, 4096}, {2, 0, 4096}, {-1, 0, 4096}, {0, -4096, 4096}} {
		if got := fetch(past.block, past.off, past.n); !strings.Contains(got, "region") {
			t.Errorf("%+v: %.60q", past, got)
		}
	}
}

func TestBlocks(t *testing.T) {
	h := Handover{Regions: []Region{{Addr: 4096, Size: 4096, PageSize: 4096}, {Addr: 4 << 20, Size: 2 << 20, PageSize: 2 << 20}}}
	want := []ram.Block{{Name: "region0", Size: 4096, PageSize: 4096}, {Name: "region1", Size: 2 << 20, PageSize: 2 << 20}}
	if got := h.Blocks(); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	if got := h.Addrs(); !reflect.DeepEqual(got, []uint64{4096, 4 << 20}) {
		t.Errorf("%#x", got)
	}
}
