package testenv

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/testenv/link"
)

func TestT4GuestMovesByVirsh(t *testing.T) {
	need.Netns(t)
	need.Libvirt(t)
	start := time.Now()
	lab, err := Up(t.Context(), Config{Name: "t4", Dir: t.TempDir(), Bound: true, Link: link.Spec{Rate: 1e9}})
	if err != nil {
		t.Fatal(err)
	}
	defer lab.Down(t.Context())
	t.Log("up", time.Since(start))
	start = time.Now()
	a, _ := lab.Host("a")
	b, _ := lab.Host("b")
	g, err := lab.StartGuest(t.Context(), GuestConfig{Name: "web", Memory: 256 << 20, Disk: 64 << 20, Workload: "hotset:size=32MiB,rate=2000", Accel: "tcg", Backing: "shared", Monitor: true})
	if err != nil {
		c, _ := os.ReadFile(a.host.GuestConsole("web"))
		t.Fatalf("%v\n%s", err, c)
	}
	t.Log("guest", time.Since(start))
	v, err := g.Verify(t.Context())
	t.Logf("%+v %v", v, err)
	start = time.Now()
	out, err := exec.Command("virsh", "-c", a.URI(), "migrate", "--live", "--copy-storage-all", "--verbose", "web", b.URI()).CombinedOutput()
	t.Logf("%v %s %v", time.Since(start), out, err)
	v, err = g.Verify(t.Context())
	t.Logf("%+v %v", v, err)
}
