package arch

import (
	"os"
	"path/filepath"
	"testing"
)

// TestModule holds this repository to the rules.
func TestModule(t *testing.T) {
	tree, err := Load(os.DirFS(top(t)))
	if err != nil {
		t.Fatal(err)
	}
	if len(tree.Packages) < 2 {
		t.Fatalf("found %d packages; the module was not read", len(tree.Packages))
	}
	for _, v := range tree.Check() {
		t.Error(v)
	}
}

// top returns the folder with go.mod.
func top(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
	}
	t.Fatal("no go.mod above this package")
	return ""
}
