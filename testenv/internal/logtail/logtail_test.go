package logtail

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRead(t *testing.T) {
	long := strings.Repeat(strings.Repeat("x", 99)+"\n", 100)
	for _, c := range []struct{ log, want string }{
		{"", ""},
		{"one\n", "one"},
		{"one\ntwo", "one; two"},
		{"1\n2\n3\n4\n5\n6\n", "2; 3; 4; 5; 6"},
		{long + "last\n", strings.Repeat(strings.Repeat("x", 99)+"; ", 4) + "last"},
		{strings.Repeat("y", 2*maxBytes), strings.Repeat("y", maxBytes)},
	} {
		path := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(path, []byte(c.log), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := Read(path); got != c.want {
			t.Errorf("%.40q: got %.60q, want %.60q", c.log, got, c.want)
		}
	}
	if got := Read("/nowhere/at/all"); got != "" {
		t.Errorf("no log: %q", got)
	}
}
