package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/testenv"
)

// imageKind has a disk that is mostly empty.
func imageKind() sharedKind {
	return sharedKind{name: "image", disk: true, guest: []string{"--backing", "shared", "--accel", testenv.AccelTCG,
		"--memory", sharedMemory, "--disk", "64MiB", "--workload", "mixed:size=16MiB,rate=1500,writes=20"}}
}

// imageArgs moves the guest with its disk to a path of which no storage pool knows.
func (x *bench) imageArgs(engine, from, path string, more ...string) []string {
	return append([]string{"migrate", "-c", x.uris[from], guestName, x.uris[other(from)], "--engine", engine, "--copy-storage-all",
		"--disk", "vda=" + path, "--persistent", "--undefinesource", "--strategy", "precopy", "--progress", "json", "-o", "json"}, more...)
}

// diskOf is the path of the guest's disk on a host.
func (x *bench) diskOf(host string, more ...string) string {
	x.t.Helper()
	for line := range strings.Lines(x.virsh(host, append([]string{"domblklist", guestName}, more...)...)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "vda" {
			return f[1]
		}
	}
	x.t.Fatal("the guest has no disk vda")
	return ""
}

// imageOn tells what is at a path of a host: what it takes on the disk, and its description by qemu-img.
func (x *bench) imageOn(host, path string) (allocated int64, format string, size int64) {
	x.t.Helper()
	path = fmt.Sprintf("/proc/%d/root%s", x.hosts[host].PID(), path)
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		x.t.Fatal(err)
	}
	out, err := exec.CommandContext(x.t.Context(), "qemu-img", "info", "-U", "--output=json", path).Output()
	var info struct {
		Format string `json:"format"`
		Size   int64  `json:"virtual-size"`
	}
	if err == nil {
		err = json.Unmarshal(out, &info)
	}
	if err != nil {
		x.t.Fatal(err)
	}
	return st.Blocks * 512, info.Format, info.Size
}

// none fails if there is anything in the folder.
func (x *bench) none(dir string) {
	x.t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 {
		x.t.Errorf("left behind: %v, %v", entries, err)
	}
}

// A guest's disk goes where the user wants it, in the format that he wants, by either engine; there it is as sparse as it was,
// and only a guest that lands leaves an image behind.
func TestT4ImagesMade(t *testing.T) {
	x := newSharedBench(t)
	x.shared(imageKind())
	dir, err := os.MkdirTemp("/var/tmp", "img") // of the machine, which both hosts see
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		x.run("lab", "remove", guestName)
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	from := x.where()
	to := other(from)
	steps := []struct {
		name string
		do   func(y *bench)
	}{
		{"native, no time", func(y *bench) { y.imageLimit("native", from, filepath.Join(dir, "late.qcow2"), dir) }},
		{"native, killed", func(y *bench) { y.imageKilled("native", from, filepath.Join(dir, "dead.qcow2"), dir) }},
		{"nbd, killed", func(y *bench) { y.imageKilled("nbd", from, filepath.Join(dir, "dead.img"), dir) }},
		// A cluster is larger than what the guest writes: only from qcow2 on can sizes be compared.
		{"native, to qcow2", func(y *bench) { y.imageMoved("native", from, filepath.Join(dir, "1"), "qcow2", false) }},
		{"nbd, qcow2", func(y *bench) { y.imageMoved("nbd", to, filepath.Join(dir, "2"), "", true) }},
		{"native, qcow2", func(y *bench) { y.imageMoved("native", from, filepath.Join(dir, "3"), "", true) }},
		{"nbd, to raw", func(y *bench) { y.imageMoved("nbd", to, filepath.Join(dir, "4"), "raw", true) }},
		{"taken", func(y *bench) { y.imageTaken(from, filepath.Join(dir, "taken")) }},
	}
	for _, s := range steps {
		if !t.Run(s.name, func(t *testing.T) { s.do(x.in(t)) }) {
			break // what follows needs the guest where this has it
		}
	}
}

// imageMoved moves the guest with its disk to that path, where thin tells that its image may take no more than the source's.
func (x *bench) imageMoved(engine, from, path, format string, thin bool) {
	x.t.Helper()
	to, old, asked := other(from), x.diskOf(from), path
	if format != "" {
		asked += ",format=" + format
	}
	p := x.start(nil, x.imageArgs(engine, from, asked, "--suspend")...)
	p.ends(exitDone)
	if live, kept := x.diskOf(to), x.diskOf(to, "--inactive"); live != path || kept != path {
		x.t.Errorf("the disk is %s, in the definition %s; want %s", live, kept, path)
	}
	had, was, size := x.imageOn(from, old)
	has, is, there := x.imageOn(to, path)
	x.t.Logf("%s: %d bytes of %d are allocated, at the source %d (%s)", path, has, there, had, was)
	if format == "" {
		format = was
	}
	if is != format || there != size || thin && has*100 > had*105 {
		x.t.Errorf("%s is %s, %d bytes, %d allocated; at the source %d and %d (%s)", path, is, there, has, size, had, was)
	}
	x.virsh(to, "resume", guestName) // it wrote nothing meanwhile
	x.at(to)
}

// imageLimit is a migration that does not end in its time.
func (x *bench) imageLimit(engine, from, path, dir string) {
	x.t.Helper()
	x.shape(from, "20mbit")
	p := x.start(nil, x.imageArgs(engine, from, path, "--max-duration", "4s")...)
	p.ends(exitLimit)
	if !strings.Contains(p.stdout(), path+" made at the destination") {
		x.t.Errorf("no word of the image:\n%s", p.stdout())
	}
	x.at(from)
	x.none(dir)
}

// imageKilled is a migration whose coordinator dies once the images are made.
func (x *bench) imageKilled(engine, from, path, dir string) {
	x.t.Helper()
	marker := x.marker()
	p := x.start([]string{migrate.ParkEnv + "=before-copy@" + marker}, x.imageArgs(engine, from, path)...)
	id := p.parked(x, marker)
	x.imageOn(other(from), path) // it is there
	x.kill(x.coordinator(id))
	p.ends(exitUnknown)
	r := x.start(nil, "recover", guestName, "--progress", "json", "-o", "json")
	r.ends(exitSource)
	x.at(from)
	x.none(dir)
}

// imageTaken is a migration onto a path that is of another size, which check forbids.
func (x *bench) imageTaken(from, path string) {
	x.t.Helper()
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		x.t.Fatal(err)
	}
	p := x.start(nil, x.imageArgs("native", from, path+",format=raw")...)
	p.ends(exitBlocked)
	p.says("too small")
	if text, err := os.ReadFile(path); err != nil || string(text) != "mine" {
		x.t.Errorf("it was overwritten: %v", err)
	}
}
