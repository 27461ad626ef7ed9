package main

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// parseFlags runs a command line through cobra as migrate does.
func parseFlags(t *testing.T, line string) (migrate.Params, *migrateFlags, error) {
	t.Helper()
	f := &migrateFlags{}
	cmd := &cobra.Command{Use: "migrate", SilenceErrors: true, SilenceUsage: true}
	f.register(cmd)
	var p migrate.Params
	cmd.RunE = func(_ *cobra.Command, args []string) (err error) {
		if err := f.args(args); err != nil {
			return err
		}
		p, err = f.params()
		return err
	}
	cmd.SetArgs(strings.Fields(line))
	err := cmd.Execute()
	return p, f, err
}

// TestVirshSpellings: a virsh user's command line means here what it means there.
func TestVirshSpellings(t *testing.T) {
	xml := filepath.Join(t.TempDir(), "dom.xml")
	if err := os.WriteFile(xml, []byte("<domain/>"), 0o600); err != nil {
		t.Fatal(err)
	}
	base := migrate.Params{Strategy: migrate.StrategyAuto, MaxDowntime: 300 * time.Millisecond}
	with := func(f func(*migrate.Params)) migrate.Params {
		p := base
		if f(&p); p.CopyStorage != migrate.CopyNone && p.DiskIdle == 0 {
			p.DiskIdle, p.DiskFull = 30*time.Second, 10*time.Minute
		}
		return p
	}
	for line, want := range map[string]migrate.Params{
		"web qemu+ssh://b/system":                            base,
		"--live --persistent --undefinesource web b":         with(func(p *migrate.Params) { p.Persistent, p.UndefineSource = true, true }),
		"--dname web2 web b tcp://10.0.0.2":                  with(func(p *migrate.Params) { p.MigrateURI, p.DestinationName = "tcp://10.0.0.2", "web2" }),
		"--migrateuri tcp://x web b":                         with(func(p *migrate.Params) { p.MigrateURI = "tcp://x" }),
		"--postcopy web b":                                   with(func(p *migrate.Params) { p.Strategy = migrate.StrategyHybrid }),
		"--postcopy --strategy postcopy web b":               with(func(p *migrate.Params) { p.Strategy = migrate.StrategyPostcopy }),
		"--copy-storage-all --migrate-disks vda,vdb web b":   with(func(p *migrate.Params) { p.CopyStorage, p.MigrateDisks = migrate.CopyAll, []string{"vda", "vdb"} }),
		"--parallel web b":                                   with(func(p *migrate.Params) { p.Parallel = 4 }),
		"--parallel --parallel-connections 8 web b":          with(func(p *migrate.Params) { p.Parallel = 8 }),
		"--bandwidth 100 web b":                              with(func(p *migrate.Params) { p.Bandwidth = 100 << 20 }),
		"--bandwidth 1gbit web b":                            with(func(p *migrate.Params) { p.Bandwidth = 125_000_000 }),
		"--timeout 60 web b":                                 with(func(p *migrate.Params) { p.Timeout = time.Minute }),
		"--timeout 60 --timeout-postcopy web b":              with(func(p *migrate.Params) { p.Timeout, p.TimeoutPostcopy = time.Minute, true }),
		"--auto-converge --auto-converge-initial 30 web b":   with(func(p *migrate.Params) { p.AutoConverge, p.AutoConvergeInitial = true, 30 }),
		"--tls --tls-destination b.example web b":            with(func(p *migrate.Params) { p.TLS, p.TLSDestination = true, "b.example" }),
		"--p2p --suspend --unsafe web b":                     with(func(p *migrate.Params) { p.PeerToPeer, p.Suspend, p.Unsafe = true, true, true }),
		"--xml " + xml + " web b":                            with(func(p *migrate.Params) { p.DestinationXML = "<domain/>" }),
		"--max-downtime 50ms --max-duration 1m web b":        with(func(p *migrate.Params) { p.MaxDowntime, p.MaxDuration = 50*time.Millisecond, time.Minute }),
		"--prepage bubble --tracker hash --plain-data web b": with(func(p *migrate.Params) { p.Prepage, p.Tracker, p.PlainData = "bubble", "hash", true }),
		"--reuse --keep-copy web b":                          with(func(p *migrate.Params) { p.Reuse, p.KeepCopy = true, true }),
		"--reuse-ram /images/web.ram web b":                  with(func(p *migrate.Params) { p.ReuseRAM = "/images/web.ram" }),
		"--copy-storage-all --disk vda=/i/a,b.img,format=raw --disk vdb=/i/b w b": with(func(p *migrate.Params) {
			p.CopyStorage, p.Disks = migrate.CopyAll, []migrate.DiskMap{{Target: "vda", Path: "/i/a,b.img", Format: "raw"}, {Target: "vdb", Path: "/i/b"}}
		}),
		"--copy-storage-all --bandwidth-disk 200mbit --disk-idle 5s --disk-full 1h w b": with(func(p *migrate.Params) {
			p.CopyStorage, p.BandwidthDisk, p.DiskIdle, p.DiskFull = migrate.CopyAll, 25_000_000, 5*time.Second, time.Hour
		}),
		"--copy-storage-inc --copy-storage-synchronous-writes w b": with(func(p *migrate.Params) { p.CopyStorage, p.SynchronousWrites = migrate.CopyInc, true }),
	} {
		got, f, err := parseFlags(t, line)
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", line, d)
		}
		if f.domain == "" || f.dest == "" {
			t.Errorf("%s: domain %q, destination %q", line, f.domain, f.dest)
		}
	}
}

// TestMistakesAreUsageErrors: a wrong command line ends with exit code 2 and says what is wrong.
func TestMistakesAreUsageErrors(t *testing.T) {
	for line, want := range map[string]string{
		"web":                                 "DOMAIN DESTURI",
		"web b c d":                           "DOMAIN DESTURI",
		"--strategy fast web b":               "not one of",
		"--postcopy --strategy precopy web b": "contradict",
		"--copy-storage-all --copy-storage-inc web b":                "contradict",
		"--migrate-disks vda web b":                                  "needs --copy-storage",
		"--bandwidth -3 web b":                                       "no rate",
		"--bandwidth fast web b":                                     "no rate",
		"--bandwidth 1e30 web b":                                     "no rate",
		"--max-downtime 0s web b":                                    "not between",
		"--parallel-connections 256 web b":                           "not between",
		"--auto-converge-initial 30 web b":                           "needs --auto-converge",
		"--auto-converge --auto-converge-initial 100 web b":          "percentage",
		"--timeout-postcopy web b":                                   "need --timeout",
		"--live=false web b":                                         "virsh migrate --offline",
		"--disks-port 70000 --copy-storage-all web b":                "no port",
		"--bandwidth-disk 3 web b":                                   "needs --copy-storage",
		"--copy-storage-all --bandwidth-disk x web b":                "no rate",
		"--copy-storage-all --disk-idle -1s web b":                   "cannot be negative",
		"--xml /does/not/exist web b":                                "no such file",
		"--disk vda=/i/a web b":                                      "needs --copy-storage",
		"--copy-storage-all --disk vda web b":                        "TARGET=/PATH",
		"--copy-storage-all --disk =/a web b":                        "TARGET=/PATH",
		"--copy-storage-all --disk vda=a web b":                      "start at the root",
		"--copy-storage-all --disk vda=/a/../b web b":                "shorter form",
		"--copy-storage-all --disk vda=/a,format=vmdk web b":         "not qcow2 or raw",
		"--copy-storage-all --disk vda=/a,size=1 web b":              "no option \"size\"",
		"--copy-storage-all --disk vda=/a,format= web b":             "one format",
		"--copy-storage-all --disk vda=/a --disk vda=/b web b":       "twice",
		"--copy-storage-all --migrate-disks vdb --disk vda=/a web b": "add it to --migrate-disks",
		"--migrateuri tcp://x web b tcp://y":                         "same thing",
		"--p2p --direct web b":                                       "contradict",
		"--prepage clever web b":                                     "not one of",
		"--tracker none web b":                                       "not one of",
		"--reuse-ram web.ram web b":                                  "whole path",
		"--tls --plain-data web b":                                   "contradict",
	} {
		_, _, err := parseFlags(t, line)
		var usage usageError
		if !errors.As(err, &usage) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want a usage error with %q", line, err, want)
		}
		if exitCode(err) != exitUsage {
			t.Errorf("%s: exit code %d", line, exitCode(err))
		}
	}
}

func FuzzParseBandwidth(f *testing.F) {
	for _, s := range []string{"", "100", "1gbit", "500mbit/s", "1.5GiB", "-1", "nan", "inf", "1e400", "0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := parseBandwidth("--bandwidth", s)
		if err == nil && s != "" && (v < 1 || v > math.MaxInt64/2) {
			t.Errorf("%q gives %d bytes per second", s, v)
		}
	})
}
