package sys

import (
	"reflect"
	"testing"
)

func TestParseMaps(t *testing.T) {
	got, err := parseMaps([]byte("7f0000000000-7f0000200000 rw-s 00001000 00:1f 4711       /dev/shm/a b (deleted)\n" +
		"7fff00000000-7fff00001000 r-xp 00000000 00:00 0                          [vdso]\n" +
		"10000-20000 ---p 00000000 103:1002 9 \n"))
	want := []Map{
		{0x7f0000000000, 0x7f0000200000, "rw-s", 0x1000, 0x1f, 4711, "/dev/shm/a b (deleted)"},
		{0x7fff00000000, 0x7fff00001000, "r-xp", 0, 0, 0, "[vdso]"},
		{0x10000, 0x20000, "---p", 0, 0x1010302, 9, ""},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	if !got[0].Shared() || got[1].Shared() {
		t.Error("sharing is mistaken")
	}
	for _, line := range []string{"x", "1-2 rwxp 0 0:0", "1 rwxp 0 0:0 0", "1-2 rwxp 0 0 0", "1-2 rwx 0 0:0 0", "1-g rwxp 0 0:0 0"} {
		if m, err := parseMaps([]byte(line)); err == nil {
			t.Errorf("%q is %+v", line, m)
		}
	}
}

func FuzzParseMaps(f *testing.F) {
	f.Add([]byte("7f0000000000-7f0000200000 rw-s 00001000 00:1f 4711       /dev/shm/a b (deleted)\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		maps, err := parseMaps(text)
		if err == nil && len(maps) > len(text)/10+1 {
			t.Errorf("%d mappings from %d bytes", len(maps), len(text))
		}
	})
}
