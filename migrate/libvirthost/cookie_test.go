package libvirthost

import "testing"

func TestEarlyCookie(t *testing.T) {
	for begin, want := range map[string]string{
		"<qemu-migration>\n<name>w&amp;b</name><uuid>u</uuid><hostname>a</hostname><hostuuid>h</hostuuid><feature name='lockstate'/><lockstate driver='lockd'/><nbd><disk target='vda' capacity='1'/></nbd></qemu-migration>\x00": "<qemu-migration><name>w&amp;b</name><uuid>u</uuid><hostname>a</hostname><hostuuid>h</hostuuid><nbd></nbd></qemu-migration>\x00",
		"<qemu-migration><name>w</name><uuid>u</uuid><hostname>a</hostname><hostuuid>h</hostuuid></qemu-migration>\x00":                                                                                                           "<qemu-migration><name>w</name><uuid>u</uuid><hostname>a</hostname><hostuuid>h</hostuuid></qemu-migration>\x00",
	} {
		got, err := earlyCookie([]byte(begin))
		if err != nil || string(got) != want {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	}
	if _, err := earlyCookie([]byte("no xml")); err == nil {
		t.Error("nonsense was taken for a cookie")
	}
}

func FuzzEarlyCookie(f *testing.F) {
	f.Add([]byte("<qemu-migration><name>w</name></qemu-migration>\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := earlyCookie(b); err == nil && c[len(c)-1] != 0 {
			t.Error("not NUL-terminated")
		}
	})
}
