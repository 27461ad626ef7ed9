package testenv

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/testenv/guest"
	"github.com/vmmigrate/vmmigrate/testenv/link"
	"github.com/vmmigrate/vmmigrate/testenv/oracle"
)

// virsh runs plain virsh on the machine.
func virsh(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "virsh", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("virsh %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// needGuest skips where no guest can be booted.
func needGuest(t *testing.T) {
	t.Helper()
	need.QEMU(t)
	_, err := guest.Find()
	need.Guest(t, err)
}

// well wants the guest to be right, and on that host.
func well(t *testing.T, g *Guest, host string) Verdict {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	v, err := g.Verify(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if !v.OK || v.Host != host {
		t.Fatalf("on host %q (want %s) %s, findings %v, report %+v", v.Host, host, v.HostError, v.Findings.List, v.Report)
	}
	return v
}

// migrated migrates the guest with plain virsh, and wants it to be right after.
func migrated(t *testing.T, g *Guest, from, to *Host) {
	t.Helper()
	virsh(t, "-c", from.URI(), "migrate", "--live", "--persistent", "--undefinesource", "--copy-storage-all", g.Name(), to.URI())
	well(t, g, to.Name())
}

func TestT4HostsTalkToEachOther(t *testing.T) {
	lab := up(t, Config{Link: link.Spec{Rate: 1e9}})
	a, b := host(t, lab, "a"), host(t, lab, "b")
	for _, h := range lab.Hosts() {
		if got := virsh(t, "-c", h.URI(), "hostname"); got != h.Name() {
			t.Errorf("host %s calls itself %s", h.Name(), got)
		}
		if got := virsh(t, "-c", h.URI(), "capabilities"); !strings.Contains(got, "<uuid>"+h.UUID()+"</uuid>") {
			t.Errorf("host %s does not report its UUID %s", h.Name(), h.UUID())
		}
		if got := virsh(t, "-c", h.URI(), "pool-info", "default"); !strings.Contains(got, "running") {
			t.Errorf("host %s: storage pool: %s", h.Name(), got)
		}
	}
	for _, uri := range []string{b.TLSURI(), b.TCPURI()} {
		if got := output(t, a, "virsh", "-c", uri, "hostname"); got != "b" {
			t.Errorf("%s is %s", uri, got)
		}
	}
	if err := b.IssueCertificates(time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := b.RestartLibvirtd(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out, err := a.Output(t.Context(), "virsh", "-c", b.TLSURI(), "hostname"); err == nil {
		t.Errorf("an expired certificate is accepted: %s", out)
	}
	if err := b.IssueCertificates(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if err := b.RestartLibvirtd(t.Context()); err != nil {
		t.Fatal(err)
	}
	output(t, a, "virsh", "-c", b.TLSURI(), "hostname")
	// A libvirtd that hangs must not hang whoever asks it.
	output(t, b, "sh", "-c", "kill -STOP $(cat /run/libvirtd.pid)")
	ctx, stop := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer stop()
	where := (&Guest{lab: lab}).Where(ctx)
	if where[0].State != StateAbsent || where[1].State != StateUnknown || where[1].Error == "" {
		t.Errorf("where with a libvirtd that hangs: %+v", where)
	}
	output(t, b, "sh", "-c", "kill -CONT $(cat /run/libvirtd.pid)")
	if err := b.StopLibvirtd(t.Context()); err != nil {
		t.Fatal(err)
	}
	s, err := lab.Status(t.Context())
	if err != nil || s.Hosts[0].Libvirtd != "running" || s.Hosts[1].Libvirtd != "stopped" {
		t.Errorf("status %+v, %v", s, err)
	}
}

func TestT4GuestMovesByPlainVirsh(t *testing.T) {
	needGuest(t)
	dir := shortDir(t)
	lab := up(t, Config{Dir: dir, Link: link.Spec{Rate: 1e9}})
	trace := track(t, lab)
	a, b := host(t, lab, "a"), host(t, lab, "b")
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	g, err := lab.StartGuest(ctx, GuestConfig{
		Name: "web", Memory: 256 << 20, Disk: 16 << 20, Backing: BackingShared, Accel: AccelTCG, Monitor: true,
		Workload: "mixed:size=16MiB,rate=1000",
	})
	if err != nil {
		t.Fatal(err)
	}
	first := well(t, g, "a")
	if _, err := lab.StartGuest(ctx, GuestConfig{Name: "web"}); err == nil {
		t.Error("a second guest of that name is started")
	}
	well(t, g, "a") // and the first is unharmed by that
	if ram := output(t, a, "find", "/dev/shm/ram", "-type", "f"); !strings.Contains(ram, "web") {
		t.Errorf("shared RAM is not in the host's RAM directory: %q", ram)
	}
	if _, err := os.Stat(g.Monitor(a)); err != nil {
		t.Errorf("second monitor: %v", err)
	}

	migrated(t, g, a, b)
	if err := b.RestartLibvirtd(ctx); err != nil {
		t.Fatal(err)
	}
	well(t, g, "b")
	migrated(t, g, b, a)
	// The guest's own claims: it never was away for its clients, nor started anew.
	last := well(t, g, "a")
	if last.Report.Seal.Incarnation != first.Report.Seal.Incarnation || last.Report.Seal.Ticks <= first.Report.Seal.Ticks {
		t.Errorf("from %+v to %+v", first.Report.Seal, last.Report.Seal)
	}
	if text, err := os.ReadFile(g.Console(a)); err != nil || !strings.Contains(string(text), "vmmigrate-guest:") {
		t.Errorf("console log: %v: %q", err, text)
	}
	opened, err := Open(ctx, "t", dir)
	if err != nil {
		t.Fatal(err)
	}
	s, err := opened.Status(ctx)
	if err != nil || len(s.Guests) != 1 || s.Guests[0].Config.Memory != 256<<20 || s.Guests[0].Where[0].State != StateRunning {
		t.Errorf("status %+v, %v", s.Guests, err)
	}
	// A guest that runs is no reason to leave anything.
	if err := lab.state.Daemon.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	trace.checkGone(t, true)
}

func TestT4GuestThatNeverAnswersIsRemoved(t *testing.T) {
	needGuest(t)
	assets, err := guest.Find()
	if err != nil {
		t.Fatal(err)
	}
	// Its kernel finds no program to start.
	broken := t.TempDir()
	if err := os.CopyFS(broken, os.DirFS(assets.Dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(broken, filepath.Base(assets.Initrd())), []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(guest.EnvAssets, broken)
	lab := up(t, Config{Hosts: []string{"a"}})
	a := host(t, lab, "a")
	ctx, stop := context.WithTimeout(t.Context(), time.Second)
	defer stop()
	c := GuestConfig{Name: "web", Memory: 256 << 20, Disk: 16 << 20, Workload: "idle:size=16MiB", Accel: AccelTCG}
	if _, err := lab.StartGuest(ctx, c); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("StartGuest: %v", err)
	}
	if got := virsh(t, "-c", a.URI(), "list", "--all", "--name"); got != "" {
		t.Errorf("domains left: %q", got)
	}
	if files, _ := filepath.Glob(a.ImagesDir() + "/*"); len(files) != 0 {
		t.Errorf("images left: %v", files)
	}
	if guests, err := lab.Guests(t.Context()); err != nil || len(guests) != 0 {
		t.Errorf("guests left: %v, %v", guests, err)
	}
}

func TestGuestConfig(t *testing.T) {
	c, err := GuestConfig{Name: "web"}.withDefaults("a")
	want := GuestConfig{
		Name: "web", Host: "a", Memory: 512 << 20, CPUs: 1, Backing: BackingPrivate, DiskFormat: FormatRaw,
		Workload: "idle", Accel: AccelAuto, Seed: 1, PageSize: smallPage,
	}
	if d := cmp.Diff(want, c); err != nil || d != "" {
		t.Errorf("defaults: %v (-want +got):\n%s", err, d)
	}
	for says, c := range map[string]GuestConfig{
		"guest name":       {Name: "a b"},
		"none of":          {Name: "x", Backing: "swap"},
		"disk format":      {Name: "x", DiskFormat: "vmdk"},
		"accelerator":      {Name: "x", Accel: "xen"},
		"whole number":     {Name: "x", Memory: 512<<20 + 1},
		"too little":       {Name: "x", Memory: 256 << 20, Workload: "uniform:size=200MiB"},
		"disk size 5":      {Name: "x", Disk: 5},
		"disk size 0":      {Name: "x", Disks: []Disk{{Size: mib}, {}}},
		"format \"vmdk\"":  {Name: "x", Disks: []Disk{{Size: mib, Format: "vmdk"}}},
		"used of disk vda": {Name: "x", Disks: []Disk{{Size: mib, Used: 2 * mib}}},
		"17 disks":         {Name: "x", Disks: make([]Disk, 17)},
		"both given":       {Name: "x", Disk: mib, Disks: []Disk{{Size: mib}}},
		"processors":       {Name: "x", CPUs: 65},
		"no-such-workload": {Name: "x", Workload: "no-such-workload"},
	} {
		if _, err := c.withDefaults("a"); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: error %v does not say %q", c, err, says)
		}
	}
}

func TestGuestDisks(t *testing.T) {
	of := func(c GuestConfig) (images []string, used []int64) {
		c.Name = "web"
		c, err := c.withDefaults("a")
		if err != nil {
			t.Fatal(err)
		}
		for i := range c.Disks {
			images = append(images, c.imageFile(i))
		}
		return images, c.used()
	}
	two, err := ParseDisk("1GiB,format=qcow2,used=300MiB")
	if err != nil || two != (Disk{Size: 1 << 30, Format: FormatQCOW2, Used: 300 * mib}) {
		t.Errorf("read as %+v, %v", two, err)
	}
	for _, tt := range []struct {
		c      GuestConfig
		images []string
		used   []int64
	}{
		{GuestConfig{}, nil, nil},
		{GuestConfig{Disk: 8 * mib}, []string{"web.img"}, nil},
		{GuestConfig{Disk: 8 * mib, DiskFormat: FormatQCOW2}, []string{"web.qcow2"}, nil},
		{GuestConfig{Disks: []Disk{two}}, []string{"web.qcow2"}, []int64{300 * mib}},
		{GuestConfig{Disks: []Disk{two, {Size: mib}}}, []string{"web.qcow2", "web@vdb.img"}, []int64{300 * mib, 0}},
	} {
		images, used := of(tt.c)
		if !slices.Equal(images, tt.images) || !slices.Equal(used, tt.used) {
			t.Errorf("%+v: images %q, used %v", tt.c, images, used)
		}
	}
	for _, text := range []string{"", "x", "1MiB,size=2", "1MiB,format=vmdk", "1MiB,used=much", "1MiB,"} {
		if d, err := ParseDisk(text); err == nil {
			t.Errorf("%q is read as %+v", text, d)
		}
	}
}

func TestRunner(t *testing.T) {
	at := func(states ...string) (where []Presence) {
		for i, s := range states {
			where = append(where, Presence{Host: HostNames(8)[i], State: s})
		}
		return where
	}
	if name, err := runner("web", at(StateAbsent, StateRunning, "shut off")); name != "b" || err != nil {
		t.Errorf("got %s, %v", name, err)
	}
	if _, err := runner("web", at("paused", StateUnknown)); !errors.Is(err, ErrNowhere) || !strings.Contains(err.Error(), "a: paused, b: unknown") {
		t.Errorf("got %v", err)
	}
	if _, err := runner("web", at(StateRunning, StateRunning)); !errors.Is(err, ErrTwice) {
		t.Errorf("got %v", err)
	}
}

func TestVerdictNeedsEveryParty(t *testing.T) {
	good := func() Verdict {
		return Verdict{Host: "a", Report: oracle.Report{OK: true}, Witness: oracle.WitnessReport{OK: true, WitnessCounts: oracle.WitnessCounts{Answers: 1}}}
	}
	v := good()
	if v.judge(); !v.OK {
		t.Errorf("all is well, and the verdict is %+v", v)
	}
	for what, spoil := range map[string]func(*Verdict){
		"host":    func(v *Verdict) { v.Host = "" },
		"guest":   func(v *Verdict) { v.Report.OK = false },
		"witness": func(v *Verdict) { v.Witness.OK = false },
		"history": func(v *Verdict) { v.Witness.High.Ticks = 5 },
		"silence": func(v *Verdict) { v.Witness.Answers = 0 },
	} {
		v := good()
		spoil(&v)
		if v.judge(); v.OK {
			t.Errorf("the verdict is OK without the %s", what)
		}
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "65536": 65536, "512MiB": 512 << 20, "1g": 1 << 30, " 2 KiB ": 2 << 10, "3T": 3 << 40, "7b": 7} {
		if got, err := ParseSize(text); got != want || err != nil {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
	for _, bad := range []string{"", "x", "-1", "1.5G", "MiB", "1XB", "9223372036854775807K", "99999999999999999999"} {
		if n, err := ParseSize(bad); err == nil {
			t.Errorf("ParseSize(%q) = %d", bad, n)
		}
	}
}

func FuzzParseSize(f *testing.F) {
	f.Add("512MiB")
	f.Add("9223372036854775807T")
	f.Fuzz(func(t *testing.T, text string) {
		if n, err := ParseSize(text); err == nil && n < 0 {
			t.Errorf("ParseSize(%q) = %d", text, n)
		}
	})
}
