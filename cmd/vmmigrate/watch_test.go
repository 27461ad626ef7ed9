package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/vmmigrate/vmmigrate/analysis/sample"
	"github.com/vmmigrate/vmmigrate/analysis/sample/store"
	"github.com/vmmigrate/vmmigrate/migrate/sampler"
)

var watched0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// seen is what a sampler tells of a guest in one second.
func seen(i int) sampler.Sample {
	return sampler.Sample{Guest: store.Guest{UUID: "u", Name: "web"}, At: watched0.Add(time.Duration(i) * time.Second), Step: time.Second,
		CPU: float64(i%10) / 10, DiskWrites: float64(i) * (1 << 20), Network: math.NaN()}
}

func window(i int, length time.Duration, bytes float64) sampler.Sample {
	s := seen(i)
	s.CPU, s.DiskWrites = math.NaN(), math.NaN()
	s.Window = &sampler.Window{At: s.At.Add(30 * time.Millisecond), Length: length, Bytes: bytes, Mode: "page-sampling"}
	return s
}

func TestLiveViewFitsTheTerminal(t *testing.T) {
	v := &liveView{}
	for i := range 200 {
		v.add([]sampler.Sample{seen(i)})
		if i%3 == 2 {
			v.add([]sampler.Sample{window(i-1, time.Second, float64(i)*1e6)})
		}
	}
	v.add([]sampler.Sample{window(10, 32*time.Second, 5e9)})
	for _, width := range []int{80, 120} {
		lines := v.text(width)
		if len(lines) != 6 || lines[0] != "web" {
			t.Fatalf("%q", lines)
		}
		for _, l := range lines {
			if n := utf8.RuneCountInString(l); n > width {
				t.Errorf("%d columns in %d: %s", n, width, l)
			}
		}
		all := strings.Join(lines, "\n")
		for _, want := range []string{"90 % of 100 %", "199 MiB/s of 199 MiB/s", "not known", "1s 188 MiB", "32s 4.7 GiB", "(page-sampling)", "█", "▁", "·"} {
			if !strings.Contains(all, want) {
				t.Errorf("%d columns: no %q in\n%s", width, want, all)
			}
		}
	}
	s := seen(200)
	s.Migrating = true
	v.add([]sampler.Sample{s})
	if l := v.text(80)[0]; !strings.Contains(l, "is being migrated") {
		t.Error(l)
	}
}

func TestLiveViewIsDrawnOverItself(t *testing.T) {
	var out bytes.Buffer
	v := &liveView{w: &out, width: func() int { return 80 }}
	for i := range 2 {
		v.add([]sampler.Sample{seen(i)})
		if err := v.draw(); err != nil {
			t.Fatal(err)
		}
	}
	if got := out.String(); strings.Count(got, "\x1b[5A") != 1 || strings.Count(got, "\n") != 10 {
		t.Errorf("%q", got)
	}
}

func TestSparkline(t *testing.T) {
	if got := sparkline([]float64{9, 0, 4, 8, math.NaN()}, 8, 6); got != " █▁▅█·" {
		t.Errorf("%q", got)
	}
	if got := sparkline([]float64{0, 0, 0}, 0, 2); got != "▁▁" {
		t.Errorf("%q", got)
	}
}

func TestSamplesAsJSON(t *testing.T) {
	var out bytes.Buffer
	if err := writeSamples(&out, []sampler.Sample{seen(3), window(3, 2*time.Second, 7)}); err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(&out)
	var a, b sampleLine
	if err := dec.Decode(&a); err != nil {
		t.Fatal(err)
	}
	if err := dec.Decode(&b); err != nil {
		t.Fatal(err)
	}
	if *a.CPU != 0.3 || *a.DiskWrites != 3<<20 || a.Network != nil || a.Dirty != nil || a.Domain != "web" || a.IntervalMS != 1000 {
		t.Errorf("%+v", a)
	}
	if b.CPU != nil || b.Dirty == nil || b.Dirty.Bytes != 7 || b.Dirty.WindowMS != 2000 {
		t.Errorf("%+v", b)
	}
}

func TestRecordedSamplesAreExported(t *testing.T) {
	state := t.TempDir()
	s, err := store.Open(t.Context(), filepath.Join(state, "samples.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	g := &globals{stateDir: state}
	r := newRecorder(s, g.log())
	for i := range 30 {
		all := []sampler.Sample{seen(i)}
		if i%2 == 0 {
			all = append(all, window(i, time.Second, 4096))
		}
		if i == 7 {
			all = nil
		}
		if err := r.add(t.Context(), all); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.close(); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if code := run(t.Context(), []string{"--state-dir", state, "watch", "web", "--export", "-"}, nil, &out, os.Stderr); code != exitDone {
		t.Fatalf("exit code %d", code)
	}
	got, err := sample.ReadCSV(&out, sample.CSVOptions{})
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]int{}
	for _, s := range got.Series {
		known[s.Name+" "+s.Unit] = s.Known()
	}
	if want := map[string]int{"cpu ": 29, "disk-writes B/s": 29, "dirty B/s": 15}; fmt.Sprint(known) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", known, want)
	}
}

func TestImportedSeriesAreExportedAsTheyWere(t *testing.T) {
	state := t.TempDir()
	const text = "time,cpu [MHz],cpu [%],value\n2013-08-12T13:40:46Z,1.5,2,3\n2013-08-12T13:45:46Z,2.5,,4\n2013-08-12T13:50:46Z,0.1,7,5\n"
	do := func(in string, args ...string) (int, string, string) {
		var out, errs bytes.Buffer
		code := run(context.Background(), append([]string{"--state-dir", state, "watch"}, args...), strings.NewReader(in), &out, &errs)
		return code, out.String(), errs.String()
	}
	for range 2 { // the second time it replaces the first
		if code, out, errs := do(text, "--import", "-", "--as", "trace"); code != exitDone || !strings.Contains(out, "trace: 3 series of 3 steps of 5m0s") {
			t.Fatalf("%d %s%s", code, out, errs)
		}
	}
	code, out, errs := do("", "trace", "--export", "-")
	want := "time,cpu [%],cpu [MHz],value\n2013-08-12T13:40:46Z,2,1.5,3\n2013-08-12T13:45:46Z,,2.5,4\n2013-08-12T13:50:46Z,7,0.1,5\n"
	if code != exitDone || out != want {
		t.Errorf("%d %s\n%s", code, out, errs)
	}
	if code, _, errs := do("time,v\n1,2\n2,x\n", "--import", "-", "--as", "bad"); code != exitFailure || !strings.Contains(errs, "line 3") {
		t.Errorf("%d %s", code, errs)
	}
	if code, _, errs := do("", "nobody", "--export", "-"); code != exitFailure || !strings.Contains(errs, "nothing is kept of this guest") {
		t.Errorf("%d %s", code, errs)
	}
}

func TestWatchUsage(t *testing.T) {
	for _, args := range [][]string{{}, {"a", "--import", "x", "--as", "y"}, {"--import", "x"}, {"--as", "x"}, {"--export", "x"}, {"a", "b", "--export", "x"},
		{"a", "--interval", "10ms"}, {"--daemon", "--print-unit"}, {"a", "--print-unit"}} {
		var out, errs bytes.Buffer
		if code := run(t.Context(), append([]string{"--state-dir", t.TempDir(), "watch"}, args...), nil, &out, &errs); code != exitUsage {
			t.Errorf("%q: exit code %d, %s", args, code, &errs)
		}
	}
	var out bytes.Buffer
	if code := run(t.Context(), []string{"watch", "--print-unit"}, nil, &out, os.Stderr); code != exitDone || !strings.Contains(out.String(), "ExecStart=/") || !strings.Contains(out.String(), "watch --daemon") {
		t.Errorf("%d %s", code, &out)
	}
}
