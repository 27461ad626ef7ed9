package worker

import (
	"maps"
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/internal/sys"
)

func TestBackendFiles(t *testing.T) {
	line := strings.Join([]string{"qemu", "-object", `{"qom-type":"memory-backend-file","id":"pc.ram","mem-path":"/ram/1-web/pc.ram","share":true}`,
		"-object", "memory-backend-file,id=r1,size=1G,mem-path=/dev/shm/a,,b,share=on", "-object", "memory-backend-memfd,id=r2",
		"-object", "rng-random,id=r3,mem-path=/x", "-m", "1G"}, "\x00")
	want := map[string]string{"pc.ram": "/ram/1-web/pc.ram", "r1": "/dev/shm/a,b"}
	if got := backendFiles([]byte(line)); !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	for _, line := range []string{"", "-object", "-object\x00", "-object\x00{", "-object\x00{\"id\":7}"} {
		if got := backendFiles([]byte(line)); len(got) != 0 {
			t.Errorf("%q: %v", line, got)
		}
	}
}

func TestMappedAt(t *testing.T) {
	const a, b, c = 0x10000, 0x20000, 0x30000
	all := []sys.Map{
		{Start: a, End: a + 0x4000, Perms: "rw-s", Inode: 1, Path: "/ram/node0"},
		{Start: a + 0x4000, End: a + 0x8000, Perms: "rw-s", Offset: 0x4000, Inode: 1, Path: "/ram/node0"},
		{Start: b, End: b + 0x8000, Perms: "rw-s", Inode: 2, Path: "/huge/qemu_back_mem.ram-node1.x7 (deleted)"},
		{Start: c, End: c + 0x8000, Perms: "rw-s", Inode: 3, Path: "/twice"},
		{Start: c + 0x8000, End: c + 0x10000, Perms: "rw-s", Inode: 4, Path: "/twice"},
		{Start: c + 0x10000, End: c + 0x18000, Perms: "rw-p", Inode: 5, Path: "/private"},
	}
	for _, x := range []struct {
		id, file string
		size     uint64
		want     uint64
	}{
		{"node0", "/ram/node0", 0x8000, a}, {"node0", "/ram/node0", 0x9000, 0}, {"ram-node1", "/huge", 0x8000, b}, {"ram-node1", "/huge/", 0x8000, b},
		{"ram-node2", "/huge", 0x8000, 0}, {"t", "/twice", 0x8000, 0}, {"p", "/private", 0x8000, 0}, {"none", "", 0x8000, 0},
	} {
		if got := mappedAt(all, x.id, x.file, x.size); got != x.want {
			t.Errorf("%s in %q: %#x, want %#x", x.id, x.file, got, x.want)
		}
	}
}
