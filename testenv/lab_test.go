package testenv

import (
	"os/exec"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/testenv/link"
)

func TestT4TwoHosts(t *testing.T) {
	need.Netns(t)
	need.Libvirt(t)
	start := time.Now()
	lab, err := Up(t.Context(), Config{Name: "t4", Dir: t.TempDir(), Bound: true, Link: link.Spec{Rate: 1e9}, Progress: func(s string) { t.Log(time.Since(start), s) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Log("up", time.Since(start))
	for _, h := range lab.Hosts() {
		out, err := exec.Command("virsh", "-c", h.URI(), "list").CombinedOutput()
		t.Logf("%s %v", out, err)
		s, err := h.Output(t.Context(), "sh", "-c", "hostname; ip -br a; virsh pool-list; cat /etc/hosts; ls /etc | wc -l; ps ax")
		t.Log(s, err)
	}
	a, _ := lab.Host("a")
	b, _ := lab.Host("b")
	t.Log(a.Output(t.Context(), "virsh", "-c", b.TLSURI(), "hostname"))
	t.Log(a.Output(t.Context(), "virsh", "-c", b.TCPURI(), "hostname"))
	start = time.Now()
	if err := lab.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Log("down", time.Since(start))
}
