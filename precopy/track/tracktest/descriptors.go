//go:build linux

package tracktest

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func descriptors(t testing.TB, pid int) int {
	t.Helper()
	return len(links(t, pid))
}

func userfaults(t testing.TB, pid int) (n int) {
	t.Helper()
	for _, l := range links(t, pid) {
		if strings.Contains(l, "userfaultfd") {
			n++
		}
	}
	return n
}

// links are what the descriptors of a process lead to.
func links(t testing.TB, pid int) (out []string) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if l, err := os.Readlink(dir + "/" + e.Name()); err == nil {
			out = append(out, l)
		}
	}
	return out
}
