package storage

import (
	"errors"
	"io/fs"
	"reflect"
	"strings"
	"syscall"
	"testing"
)

const chainText = `[
 {"children":[{"name":"file","info":{"virtual-size":1,"filename":"b.qcow2","format":"file"}}],
  "backing-filename-format":"qcow2","virtual-size":67108864,"filename":"/i/b.qcow2","cluster-size":131072,"format":"qcow2",
  "actual-size":200704,"full-backing-filename":"/i/a.qcow2","backing-filename":"a.qcow2","dirty-flag":false,
  "format-specific":{"type":"qcow2","data":{"compat":"1.1","compression-type":"zlib","lazy-refcounts":true,"refcount-bits":16,
  "corrupt":false,"extended-l2":true,"data-file":"d"}}},
 {"virtual-size":67108864,"filename":"/i/a.qcow2","format":"raw","actual-size":4096}]`

func chain() []Layer {
	return []Layer{
		{Path: "/i/b.qcow2", Format: "qcow2", VirtualSize: 64 << 20, Allocated: 200704, ClusterSize: 128 << 10, Compat: "1.1",
			LazyRefcounts: true, ExtendedL2: true, DataFile: "d", Backing: "/i/a.qcow2", BackingFormat: "qcow2"},
		{Path: "/i/a.qcow2", Format: "raw", VirtualSize: 64 << 20, Allocated: 4096},
	}
}

func TestParseInfo(t *testing.T) {
	got, err := parseInfo([]byte(chainText))
	if err != nil || !reflect.DeepEqual(got, chain()) {
		t.Errorf("%+v, %v", got, err)
	}
	one := `{"virtual-size":512,"filename":"/x","format":"qcow2","encrypted":true,"format-specific":{"type":"qcow2","data":{"encrypt":{"format":"luks"}}}}`
	if got, err := parseInfo([]byte(one)); err != nil || len(got) != 1 || !got[0].Encrypted {
		t.Errorf("%+v, %v", got, err)
	}
	for name, bad := range map[string]string{
		"nothing": ``, "no layer": `[]`, "a word": `"x"`, "no format": `{"virtual-size":1,"filename":"/x"}`,
		"no size": `{"filename":"/x","format":"raw"}`, "no name": `{"virtual-size":1,"format":"raw","filename":""}`,
		"negative": `{"virtual-size":-1,"filename":"/x","format":"raw"}`,
		"huge":     `{"virtual-size":9223372036854775807,"filename":"/x","format":"raw"}`,
		"long":     `{"virtual-size":1,"filename":"/` + strings.Repeat("x", maxName) + `","format":"raw"}`,
		"many":     `[` + strings.Repeat(`{"virtual-size":1,"filename":"/x","format":"raw"},`, maxLayers) + `{}]`,
		"behind":   `{"virtual-size":1,"filename":"/x","format":"raw"} {}`,
	} {
		if got, err := parseInfo([]byte(bad)); err == nil {
			t.Errorf("%s: taken as %+v", name, got)
		}
	}
}

func TestAllocatedOfAChain(t *testing.T) {
	i := Image{Layers: chain()}
	if got := i.Allocated(); got != 204800 {
		t.Errorf("%d bytes", got)
	}
	i.Layers[0].Allocated, i.Layers[1].Allocated = 1<<62, 1<<62+1<<61
	if got := i.Allocated(); got <= 0 {
		t.Errorf("the sum runs over: %d", got)
	}
	if l, ok := (Image{}).Top(); ok {
		t.Errorf("an absent image has %+v", l)
	}
}

func TestParseMap(t *testing.T) {
	text := `[{"start":0,"length":512,"depth":0,"present":true,"zero":false,"data":true,"offset":7},
	{"start":512,"length":1024,"depth":1,"present":false,"zero":true,"data":false}]`
	got, err := parseMap([]byte(text))
	want := []Extent{{0, 512, false, true, true, 0}, {512, 1024, true, false, false, 1}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	for name, bad := range map[string]string{
		"nothing": ``, "no list": `{}`, "no end": `[`, "gap": `[{"start":1,"length":1,"zero":true,"data":true}]`,
		"empty": `[{"start":0,"length":0,"zero":true,"data":true}]`, "no start": `[{"length":1,"zero":true,"data":true}]`,
		"no kind":  `[{"start":0,"length":1,"zero":true}]`,
		"overlap":  `[{"start":0,"length":9,"zero":true,"data":true},{"start":8,"length":1,"zero":true,"data":true}]`,
		"overflow": `[{"start":0,"length":9223372036854775807,"zero":true,"data":true}]`,
		"depth":    `[{"start":0,"length":1,"zero":true,"data":true,"depth":-1}]`,
	} {
		if got, err := parseMap([]byte(bad)); err == nil {
			t.Errorf("%s: taken as %+v", name, got)
		}
	}
}

func FuzzInfo(f *testing.F) {
	f.Add([]byte(chainText))
	f.Add([]byte(`{"virtual-size":512,"filename":"/x","format":"raw"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		layers, err := parseInfo(text)
		if err != nil {
			return
		}
		if len(layers) == 0 || len(layers) > maxLayers || (Image{Layers: layers}).Allocated() < 0 {
			t.Fatalf("%d layers", len(layers))
		}
		for _, l := range layers {
			if l.Path == "" || l.Format == "" || l.VirtualSize < 0 || l.VirtualSize > maxSize {
				t.Fatalf("%+v", l)
			}
		}
	})
}

func FuzzMap(f *testing.F) {
	f.Add([]byte(`[{"start":0,"length":512,"depth":0,"zero":false,"data":true},{"start":512,"length":1,"zero":true,"data":false}]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		extents, err := parseMap(text)
		var at int64
		for _, x := range extents {
			if x.Offset != at || x.Length <= 0 {
				t.Fatalf("%+v behind %d", x, at)
			}
			at += x.Length
		}
		if err == nil && at > maxSize {
			t.Fatalf("%d bytes", at)
		}
	})
}

func FuzzPath(f *testing.F) {
	for _, p := range []string{"/a/b", "/a/../b", "/", "", "a", "/a//b", "/a/", "/a\n", "/\xff"} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p string) {
		if CheckPath(p) == nil && (p[0] != '/' || strings.Contains(p, "/../") || strings.ContainsAny(p, "\x00\n") || strings.HasSuffix(p, "/")) {
			t.Fatalf("%q is taken", p)
		}
	})
}

func TestPaths(t *testing.T) {
	for _, good := range []string{"/a", "/var/lib/images/web.qcow2", "/a b/ü"} {
		if err := CheckPath(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "/", "a", "./a", "/a/", "/a//b", "/a/../b", "/a/.", "/a\nb", "/a\x00", "/\xff", "nbd:x:1", "json:{}", "/" + strings.Repeat("a", 5000)} {
		if err := CheckPath(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	for folder, ok := range map[string]bool{"/dev": false, "/dev/mapper": false, "/dev/shm": true, "/dev/shm/x": true, "/devices": true, "/proc/1/root": false, "/sys": false, "/srv": true} {
		if err := checkFolder(folder); (err == nil) != ok {
			t.Errorf("%s: %v", folder, err)
		}
	}
}

// What an error is, and what to do about it, is told wherever it comes from.
func TestErrorsSayWhatToDo(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		is   error
		says string
	}{
		"full":      {saidBy("qemu-img: /proc/self/fd/3: Could not resize file: No space left on device", errors.New("exit status 1")), ErrNoRoom, "free some space"},
		"quota":     {syscall.EDQUOT, ErrNoRoom, "quota"},
		"taken":     {syscall.EEXIST, ErrExists, "--disk"},
		"no folder": {syscall.ENOENT, fs.ErrNotExist, "make its folder"},
		"read-only": {syscall.EROFS, syscall.EROFS, "written to"},
	} {
		var e *Error
		if err := fail("make", "/x", c.err); !errors.As(err, &e) || !errors.Is(err, c.is) || !strings.Contains(e.Fix, c.says) {
			t.Errorf("%s: %v, fix %q", name, err, e.Fix)
		}
	}
	if err := saidBy("", syscall.EIO); err != syscall.EIO {
		t.Errorf("%v", err)
	}
}
