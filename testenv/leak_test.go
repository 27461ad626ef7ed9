package testenv

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/testenv/internal/owner"
)

// spoor is what a lab that is up can be recognized by on the machine.
type spoor struct {
	dir        string
	namespaces []string // such as "net:[4026532281]"
}

// track notes the namespaces of a lab and its hosts.
func track(t *testing.T, lab *Lab) spoor {
	t.Helper()
	s := spoor{dir: lab.Dir()}
	ids := []owner.Identity{lab.state.Daemon}
	for _, h := range lab.Hosts() {
		ids = append(ids, h.owner)
	}
	for _, id := range ids {
		for _, kind := range []string{"net", "pid", "mnt", "uts", "ipc"} {
			ns := namespace(id.PID, kind)
			// What the daemon shares with the machine is not the lab's.
			if ns != namespace(os.Getpid(), kind) {
				s.namespaces = append(s.namespaces, ns)
			}
		}
	}
	// The daemon has two of its own, each host five.
	if want := 2 + 5*len(lab.Hosts()); len(s.namespaces) != want {
		t.Fatalf("%d namespaces, want %d: %v", len(s.namespaces), want, s.namespaces)
	}
	return s
}

func namespace(pid int, kind string) string {
	link, _ := os.Readlink(filepath.Join("/proc", itoa(pid), "ns", kind))
	return link
}

// inhabitants are the processes that live in any of the lab's namespaces or have
// its directory among their arguments, other than this one.
func (s spoor) inhabitants(t *testing.T) (found []string) {
	t.Helper()
	pids, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pids {
		stat, _ := os.ReadFile(filepath.Join(p, "stat"))
		if strings.Contains(string(stat), ") Z ") {
			continue // it has ended; whoever inherited it has not looked yet
		}
		line, _ := os.ReadFile(filepath.Join(p, "cmdline"))
		words := strings.ReplaceAll(string(line), "\x00", " ")
		inside := strings.Contains(words, s.dir) && filepath.Base(p) != itoa(os.Getpid())
		for _, kind := range []string{"net", "pid", "mnt", "uts", "ipc"} {
			ns, _ := os.Readlink(filepath.Join(p, "ns", kind))
			inside = inside || slices.Contains(s.namespaces, ns)
		}
		if inside {
			found = append(found, filepath.Base(p)+" "+words)
		}
	}
	return found
}

// checkGone wants nothing of the lab to be left but, if files says so, its files.
func (s spoor) checkGone(t *testing.T, files bool) {
	t.Helper()
	if left := s.inhabitants(t); len(left) != 0 {
		t.Errorf("processes left: %q", left)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), s.dir) {
		t.Errorf("mounts left below %s:\n%s", s.dir, mounts)
	}
	named, _ := filepath.Glob("/run/netns/vml-*")
	if len(named) != 0 {
		t.Errorf("named network namespaces: %v", named)
	}
	_, err = os.Lstat(s.dir)
	if exists := !errors.Is(err, os.ErrNotExist); exists != files {
		t.Errorf("the lab's directory exists: %v, want %v", exists, files)
	}
}
