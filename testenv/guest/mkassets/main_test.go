package main

import (
	"path/filepath"
	"testing"
)

func TestRunRefuses(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing.deb")
	for _, args := range [][]string{{}, {"-deb", missing, "more"}, {"-nonsense"}, {"-deb", missing, "-out", t.TempDir()}} {
		if err := run(args); err == nil {
			t.Errorf("run(%q) is no error", args)
		}
	}
}
