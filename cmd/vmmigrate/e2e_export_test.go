package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/internal/need"
)

// exporting is a running export command.
type exporting struct {
	*proc
	sock string
}

// exportRAM starts exports of the guest and waits until clients may come.
func exportRAM(x *bench, host string, args ...string) exporting {
	x.t.Helper()
	e := exporting{sock: filepath.Join(x.t.TempDir(), "ram.sock")}
	e.proc = x.start(nil, append([]string{"export", "-c", x.uris[host], guestName, "--socket", e.sock}, args...)...)
	x.until("the exports are there", func() bool {
		select {
		case <-e.done:
			x.t.Fatalf("%s ended\n%s", e, e.stderr())
		default:
		}
		_, err := os.Stat(e.sock)
		return err == nil
	})
	return e
}

func (e exporting) uri(export string) string { return "nbd+unix:///" + export + "?socket=" + e.sock }

// end is a Ctrl-C: the command ends well, and leaves no socket.
func (e exporting) end() {
	e.t.Helper()
	if err := e.cmd.Process.Signal(os.Interrupt); err != nil {
		e.t.Error(err)
	}
	e.ends(exitDone)
	if _, err := os.Stat(e.sock); !os.IsNotExist(err) {
		e.t.Errorf("the socket is left: %v", err)
	}
}

// tool runs a program that must end well.
func (x *bench) tool(name string, args ...string) string {
	x.t.Helper()
	ctx, stop := context.WithTimeout(x.t.Context(), patience)
	defer stop()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		x.t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// mapOf counts what nbdinfo's map says: bytes by description.
func (x *bench) mapOf(uri, context string) map[string]int64 {
	x.t.Helper()
	var runs []struct {
		Length      int64
		Description string
	}
	if err := json.Unmarshal([]byte(x.tool("nbdinfo", "--json", "--map="+context, uri)), &runs); err != nil {
		x.t.Fatal(err)
	}
	sum := map[string]int64{}
	for _, r := range runs {
		sum[r.Description] += r.Length
	}
	return sum
}

// asQEMU fails unless a file holds the guest's memory as QEMU writes it out.
func (x *bench) asQEMU(host, file string) {
	x.t.Helper()
	const dump = "/dev/shm/dump" // the host's own
	x.undo("lab", "exec", host, "--", "rm", "-f", dump)
	x.virsh(host, "qemu-monitor-command", guestName, fmt.Sprintf(`{"execute":"pmemsave","arguments":{"val":0,"size":%d,"filename":"%s"}}`, guestMemory, dump))
	x.ok("lab", "exec", host, "--", "cmp", dump, file)
}

// TestT4Export: nbdinfo, nbdcopy and qemu-img read the RAM of a guest that runs; holes and what it writes are told; of a
// paused one each byte is what QEMU has; and nothing is left in QEMU.
func TestT4Export(t *testing.T) {
	need.UFFD(t)
	need.NBD(t)
	x := newBench(t)
	host := x.settle()
	e := exportRAM(x, host, "--track")
	if list := x.tool("nbdinfo", "--list", e.uri("")); !strings.Contains(list, `export="ram":`) || !strings.Contains(list, `export="ram/pc.ram":`) ||
		!strings.Contains(list, "qemu:dirty-bitmap:vmmigrate") || !strings.Contains(list, "is_read_only: true") {
		t.Errorf("nbdinfo lists\n%s", list)
	}
	x.until("the guest has written something", func() bool {
		return x.mapOf(e.uri("ram/pc.ram"), "qemu:dirty-bitmap:vmmigrate")["dirty"] > 0
	})
	if dirty := x.mapOf(e.uri("ram"), "qemu:dirty-bitmap:vmmigrate"); dirty["dirty"]+dirty["clean"] != guestMemory || dirty["clean"] == 0 {
		t.Errorf("dirty and clean: %v", dirty)
	}
	x.tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", e.uri("ram"), filepath.Join(t.TempDir(), "ram.qcow2"))
	if n := x.userfaults(host); n != 1 {
		t.Errorf("%d userfaultfds while it is tracked", n)
	}
	e.end()
	if n := x.userfaults(host); n != 0 {
		t.Errorf("%d userfaultfds are left in QEMU", n)
	}

	e = exportRAM(x, host)
	if holes := x.mapOf(e.uri("ram"), "base:allocation"); holes["data"]+holes["hole,zero"] != guestMemory || holes["data"] == 0 {
		t.Errorf("holes and data: %v", holes)
	}
	x.virsh(host, "suspend", guestName)
	defer x.tidy(host, "resume", guestName)
	got := filepath.Join(t.TempDir(), "ram")
	x.tool("nbdcopy", e.uri("ram"), got)
	x.asQEMU(host, got)
	e.end()
	if !strings.Contains(e.stdout(), "240 MiB  nbd+unix:///ram?socket=") {
		t.Errorf("it says\n%s", e.stdout())
	}
}

// userfaults counts those of the guest's QEMU.
func (x *bench) userfaults(host string) int {
	x.t.Helper()
	fds := x.ok("lab", "exec", host, "--", "sh", "-c", "ls -l /proc/$(cat /run/libvirt/qemu/"+guestName+".pid)/fd")
	if !strings.Contains(fds, "eventfd") {
		x.t.Fatalf("these are not QEMU's:\n%s", fds)
	}
	return strings.Count(fds, "[userfaultfd]")
}
