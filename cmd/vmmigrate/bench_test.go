package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/testenv"
	benchmark "github.com/vmmigrate/vmmigrate/testenv/bench"
	"github.com/vmmigrate/vmmigrate/testenv/guest"
)

func runBench(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(context.Background(), append([]string{"bench"}, args...), strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

func TestBenchUsage(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.json")
	if err := os.WriteFile(bad, []byte(`{"schema":"vmmigrate.scenario/v1","nmae":"x"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]string{
		"":                            "shipped scenarios are",
		"nothing-like-it":             "shipped scenarios are",
		bad:                           `unknown field "nmae"`,
		"tiny --only (":               "--only",
		"tiny --repetitions -1":       "--repetitions -1",
		"tiny --redraw bench.json":    "or --redraw FILE",
		"--redraw x tiny dirty-rates": "or --redraw FILE",
	} {
		if code, _, stderr := runBench(strings.Fields(line)...); code != exitUsage || !strings.Contains(stderr, want) {
			t.Errorf("bench %s: exit %d, %q does not say %q", line, code, stderr, want)
		}
	}
}

// What was recorded once can be drawn again, with the bars of today.
func TestBenchDrawsAgain(t *testing.T) {
	dir := t.TempDir()
	micro := filepath.Join(dir, "micro.txt")
	if err := os.WriteFile(micro, []byte("BenchmarkNBDCopy/read 1 9 ns/op 300 ours-MB/s 200 nbdkit-MB/s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	recorded := filepath.Join("..", "..", "testenv", "bench", "testdata", "bench.json")
	code, stdout, stderr := runBench("--redraw", recorded, "--out", dir, "--micro", micro)
	if code != exitDone || !strings.Contains(stdout, "THE BARS") || !strings.Contains(stdout, "met              1.50  NBDCopy/read:") {
		t.Fatalf("exit %d, %s%s", code, stdout, stderr)
	}
	for _, name := range []string{"bench.json", "bench.txt", "bench.html"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() < 1000 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if code, _, _ := runBench("--redraw", micro, "--out", dir); code != exitFailure {
		t.Errorf("a file that is no report: exit %d", code)
	}
}

func TestT4BenchMeasuresAMigration(t *testing.T) {
	need.Libvirt(t)
	_, err := guest.Find()
	need.Guest(t, err)
	labs, err := os.MkdirTemp("/var/tmp", "bench") // short, for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(labs) })
	t.Setenv(testenv.DirEnv, labs)
	dir := t.TempDir()
	// Not in this process: what it measures is its own program, which here are the tests.
	cmd := exec.CommandContext(t.Context(), "vmmigrate", "bench", "tiny", "--out", dir, "--repetitions", "1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	file, err := os.Open(filepath.Join(dir, "bench.json"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	r, err := benchmark.ReadReport(file)
	if err != nil {
		t.Fatal(err)
	}
	cell := r.Scenarios[0].Cells[0]
	row := cell.Rows[0]
	if len(row.Runs) != 1 || !row.Runs[0].OK || row.Runs[0].From != "a" || row.Runs[0].To != "b" || cell.RTTUS == nil {
		t.Fatalf("%s%+v", out, row)
	}
	run := row.Runs[0]
	if run.DowntimeMS == nil || run.TotalMS == nil || run.OutsideMS == nil || run.LinkBytes == nil || run.Speed.During == nil || len(run.Report) == 0 {
		t.Errorf("figures are missing: %+v", run)
	}
	// The guest is silent for as long as it is paused, and its pages go over the link.
	if *run.OutsideMS < *run.DowntimeMS*0.9 || *run.LinkBytes < 16<<20 || *run.TotalMS > run.WallMS {
		t.Errorf("figures contradict each other: %+v", run)
	}
	if left, err := os.ReadDir(labs); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
