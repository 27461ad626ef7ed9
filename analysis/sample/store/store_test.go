package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vmmigrate/vmmigrate/analysis/sample"
)

const childFile = "VMMIGRATE_TEST_STORE"

func TestMain(m *testing.M) {
	if file := os.Getenv(childFile); file != "" {
		putForever(file)
		return
	}
	goleak.VerifyTestMain(m)
}

var (
	begin = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	web   = Guest{UUID: "7f9e", Name: "web"}
)

func open(t *testing.T, o Options) *Store {
	t.Helper()
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "d", "samples.db"), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// ramp is a series of n values that count up.
func ramp(m sample.Metric, start time.Time, step time.Duration, n int) sample.Series {
	s := sample.Series{Name: string(m), Unit: m.Unit(), Start: start, Step: step, Values: make([]float64, n)}
	for i := range s.Values {
		s.Values[i] = float64(i)
	}
	return s
}

func put(t *testing.T, s *Store, g Guest, series ...sample.Series) {
	t.Helper()
	must(t, s.Put(t.Context(), Batch{Guest: g, Metrics: series}))
}

func get(t *testing.T, s *Store, q Query) sample.Series {
	t.Helper()
	got, err := s.Series(t.Context(), web.UUID, sample.MetricCPU, q)
	must(t, err)
	return got
}

func equal(a, b sample.Series) bool {
	if a.Name != b.Name || a.Unit != b.Unit || !a.Start.Equal(b.Start) || a.Step != b.Step || len(a.Values) != len(b.Values) {
		return false
	}
	for i, v := range a.Values {
		if v != b.Values[i] && !(math.IsNaN(v) && math.IsNaN(b.Values[i])) {
			return false
		}
	}
	return true
}

func TestWhatWasPutComesBackExactly(t *testing.T) {
	s := open(t, Options{})
	for _, start := range []time.Time{begin, time.Date(1965, 1, 1, 0, 0, 1, 500, time.UTC), begin.Add(123456789)} {
		for _, step := range []time.Duration{time.Second, 100 * time.Millisecond, 7 * time.Second, 5 * time.Minute, time.Hour} {
			g := Imported(fmt.Sprint(start, step))
			in := ramp(sample.MetricDirty, start, step, 1000)
			in.Values[0], in.Values[7], in.Values[999] = 1./3, math.NaN(), 1e300
			put(t, s, g, in)
			got, err := s.Series(t.Context(), g.UUID, sample.MetricDirty, Query{})
			must(t, err)
			if !equal(got, in) {
				t.Errorf("%s, %s: %s %s %d", start, step, got.Start, got.Step, got.Len())
			}
			got, err = s.Series(t.Context(), g.UUID, sample.MetricDirty, Query{From: start.Add(3 * step), To: start.Add(500 * step)})
			must(t, err)
			if !equal(got, in.Slice(3, 500)) {
				t.Errorf("%s, %s: a part is %s %s %d", start, step, got.Start, got.Step, got.Len())
			}
		}
	}
}

func TestSamplesComeInAnyOrderAndReplaceOthers(t *testing.T) {
	s := open(t, Options{})
	all := ramp(sample.MetricCPU, begin, time.Second, 600)
	put(t, s, web, all.Slice(300, 600))
	put(t, s, web, all.Slice(0, 200), all.Slice(150, 300))
	if got := get(t, s, Query{}); !equal(got, all) {
		t.Errorf("%d of %d", got.Known(), got.Len())
	}
	none := sample.Series{Name: "cpu", Start: begin, Step: time.Second, Values: []float64{math.NaN(), 70}}
	put(t, s, web, none)
	if got := get(t, s, Query{}); got.Values[0] != 0 || got.Values[1] != 70 {
		t.Errorf("%v", got.Values[:2])
	}
}

func TestOldSamplesAreThinnedAndForgotten(t *testing.T) {
	s := open(t, Options{Keep: [levels]time.Duration{time.Hour, 6 * time.Hour, 30 * time.Hour}})
	const n = 60 * 3600
	in := ramp(sample.MetricCPU, begin, time.Second, n)
	for i := range in.Values {
		in.Values[i] = float64(i % 60)
	}
	put(t, s, web, in)
	must(t, s.Tidy(t.Context()))
	b, err := s.Band(t.Context(), web.UUID, sample.MetricCPU, Query{})
	must(t, err)
	if b.Mean.Step != 5*time.Minute || b.Mean.Span() < 30*time.Hour || b.Mean.Span() > 51*time.Hour || !b.Mean.End().Equal(in.End()) || b.Mean.Known() != b.Mean.Len() {
		t.Errorf("%s steps of %s, to %s", b.Mean.Span(), b.Mean.Step, b.Mean.End())
	}
	for i := range b.Mean.Values {
		if b.Min.Values[i] != 0 || b.Mean.Values[i] != 29.5 || b.Max.Values[i] != 59 {
			t.Fatalf("step %d: %v %v %v", i, b.Min.Values[i], b.Mean.Values[i], b.Max.Values[i])
		}
	}
	fine := get(t, s, Query{From: in.End().Add(-time.Hour)})
	if !equal(fine, in.Slice(n-3600, n)) {
		t.Errorf("%s steps of %s", fine.Span(), fine.Step)
	}
	if m := get(t, s, Query{From: in.End().Add(-5 * time.Hour)}); m.Step != time.Minute || m.Len() != 5*60 {
		t.Errorf("%s steps of %s", m.Span(), m.Step)
	}
	if m := get(t, s, Query{From: in.End().Add(-time.Hour), Step: 10 * time.Minute}); m.Step != 5*time.Minute || m.Len() != 12 {
		t.Errorf("%s steps of %s", m.Span(), m.Step)
	}
	g, err := s.Find(t.Context(), "web")
	must(t, err)
	if !g.Series[0].First.Equal(b.Mean.Start) || !g.Last().Equal(in.End()) {
		t.Errorf("%+v", g)
	}
}

func TestStepsThatNeedNoThinningStayExact(t *testing.T) {
	s := open(t, Options{})
	in := ramp(sample.MetricCPU, begin, 5*time.Minute, 60*288)
	in.Values[0] = 1. / 3
	put(t, s, web, in)
	must(t, s.Tidy(t.Context()))
	if got := get(t, s, Query{}); !equal(got, in) {
		t.Errorf("%s steps of %s", got.Span(), got.Step)
	}
}

func TestWindowsAreKeptBesideRates(t *testing.T) {
	s := open(t, Options{})
	var in sample.Windows
	for w := time.Second; w <= 64*time.Second; w *= 2 {
		in = append(in, ramp(sample.MetricDirty, begin, w, 10))
	}
	must(t, s.Put(t.Context(), Batch{Guest: web, Metrics: []sample.Series{ramp(sample.MetricDirty, begin, time.Second, 640)}, Windows: in}))
	got, err := s.Windows(t.Context(), web.UUID, Query{})
	must(t, err)
	if len(got) != len(in) {
		t.Fatalf("%d windows", len(got))
	}
	for i := range in {
		if !equal(got[i], in[i]) {
			t.Errorf("%+v", got[i])
		}
	}
	if r, err := s.Series(t.Context(), web.UUID, sample.MetricDirty, Query{}); err != nil || r.Len() != 640 {
		t.Errorf("%d, %v", r.Len(), err)
	}
}

func TestGuestsAreFoundByNameAndUUID(t *testing.T) {
	s := open(t, Options{})
	old := Guest{UUID: "old", Name: "web"}
	put(t, s, old, ramp(sample.MetricCPU, begin.Add(-time.Hour), time.Second, 10))
	put(t, s, web, ramp(sample.MetricCPU, begin, time.Second, 10), ramp(sample.MetricNetwork, begin, time.Second, 10))
	put(t, s, Guest{UUID: "x", Name: "before"}, ramp(sample.MetricCPU, begin, time.Second, 10))
	put(t, s, Guest{UUID: "x", Name: "after"}, ramp(sample.MetricCPU, begin, time.Second, 10))
	for ask, want := range map[string]string{"web": web.UUID, "old": "old", "after": "x", web.UUID: web.UUID} {
		if g, err := s.Find(t.Context(), ask); err != nil || g.UUID != want {
			t.Errorf("%s: %+v, %v", ask, g, err)
		}
	}
	for _, ask := range []string{"before", ""} {
		if _, err := s.Find(t.Context(), ask); !errors.Is(err, ErrNoGuest) {
			t.Errorf("%q: %v", ask, err)
		}
	}
	all, err := s.Guests(t.Context())
	if err != nil || len(all) != 3 || len(all[1].Series)+len(all[2].Series) != 3 {
		t.Errorf("%+v, %v", all, err)
	}
	must(t, s.Remove(t.Context(), "old"))
	if err := s.Remove(t.Context(), "old"); !errors.Is(err, ErrNoGuest) {
		t.Error(err)
	}
	var n int
	must(t, s.db.QueryRow("SELECT count(*) FROM blocks WHERE series NOT IN (SELECT id FROM series)").Scan(&n))
	if n != 0 {
		t.Errorf("%d blocks of nobody", n)
	}
}

func TestTheFileStaysBelowItsLimit(t *testing.T) {
	const limit = 2 << 20
	s := open(t, Options{MaxBytes: limit})
	for i := range 8 {
		g := Guest{UUID: strconv.Itoa(i), Name: "g"}
		put(t, s, g, ramp(sample.MetricCPU, begin.Add(time.Duration(i)*time.Hour), time.Second, 60_000), ramp(sample.MetricNetwork, begin, time.Second, 20_000))
		st, err := os.Stat(s.path)
		must(t, err)
		if st.Size() > limit+maxPending*slots*8*2 {
			t.Errorf("guest %d: %d bytes", i, st.Size())
		}
	}
	must(t, s.Tidy(t.Context()))
	st, err := os.Stat(s.path)
	must(t, err)
	if st.Size() > limit {
		t.Errorf("%d bytes", st.Size())
	}
	all, err := s.Guests(t.Context())
	must(t, err)
	if len(all) == 0 || all[0].UUID == "" {
		t.Errorf("%d guests are left", len(all))
	}
	if got, err := s.Series(t.Context(), "7", sample.MetricCPU, Query{}); err != nil || got.Known() == 0 {
		t.Errorf("the last guest: %d, %v", got.Known(), err)
	}
}

func TestManyGuestsMakeRoomForTheNewest(t *testing.T) {
	s := open(t, Options{MaxBytes: minBytes})
	for i := range 6 {
		var all []Batch
		for k := range 100 {
			n := 100*i + k
			all = append(all, Batch{Guest: Guest{UUID: strconv.Itoa(n), Name: "g"}, Metrics: []sample.Series{ramp(sample.MetricCPU, begin.Add(time.Duration(n)*time.Hour), time.Second, 10)}})
		}
		must(t, s.Put(t.Context(), all...))
	}
	if _, err := s.Find(t.Context(), "599"); err != nil {
		t.Error(err)
	}
	if _, err := s.Find(t.Context(), "0"); !errors.Is(err, ErrNoGuest) {
		t.Error(err)
	}
}

func TestReadersBesideAWriter(t *testing.T) {
	s := open(t, Options{Keep: [levels]time.Duration{time.Hour, 2 * time.Hour, 3 * time.Hour}})
	in := ramp(sample.MetricCPU, begin, time.Second, 20_000)
	put(t, s, web, in.Slice(0, 4000))
	stop, done := make(chan struct{}), make(chan error, 3)
	for range 3 {
		go func() { done <- readUntil(s.path, stop) }()
	}
	for i := 4000; i < in.Len(); i += 2000 {
		put(t, s, web, in.Slice(i, i+2000))
		must(t, s.Tidy(t.Context()))
	}
	close(stop)
	for range 3 {
		must(t, <-done)
	}
}

// readUntil reads again and again, and wants each time what is complete: thinning must not be seen half done.
func readUntil(path string, stop <-chan struct{}) error {
	ctx := context.Background()
	s, err := OpenReadOnly(ctx, path)
	if err != nil {
		return err
	}
	defer s.Close()
	for {
		got, err := s.Series(ctx, web.UUID, sample.MetricCPU, Query{})
		if err != nil {
			return err
		}
		if got.Known() != got.Len() || got.Len() == 0 {
			return fmt.Errorf("%d of %d steps are known", got.Known(), got.Len())
		}
		select {
		case <-stop:
			return nil
		default:
		}
	}
}

// putForever is the child: it says what it has kept, until it is killed.
func putForever(file string) {
	ctx := context.Background()
	s, err := Open(ctx, file, Options{Keep: [levels]time.Duration{time.Minute, time.Hour, 1000 * time.Hour}})
	if err != nil {
		fmt.Println("error", err)
		return
	}
	start := begin
	if got, err := s.Series(ctx, web.UUID, sample.MetricCPU, Query{}); err == nil {
		start = got.End()
	}
	for i := 0; ; i++ {
		one := sample.Series{Name: "cpu", Start: start.Add(time.Duration(i) * 10 * time.Minute), Step: time.Second, Values: make([]float64, 600)}
		err := s.Put(ctx, Batch{Guest: web, Metrics: []sample.Series{one}})
		if err == nil {
			err = s.Tidy(ctx)
		}
		if err != nil {
			fmt.Println("error", err)
			return
		}
		fmt.Println(one.End().UnixNano())
	}
}

func TestKilledWriterLeavesAWholeFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "samples.db")
	for round := range 4 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childFile+"="+file)
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		lines, last := bufio.NewScanner(out), int64(0)
		for n := 0; n < 3+4*round && lines.Scan(); n++ {
			last, err = strconv.ParseInt(lines.Text(), 10, 64)
			must(t, err)
		}
		must(t, cmd.Process.Kill())
		for lines.Scan() {
			if v, err := strconv.ParseInt(lines.Text(), 10, 64); err == nil {
				last = v
			}
		}
		_ = cmd.Wait() // it was killed
		s, err := OpenReadOnly(t.Context(), file)
		must(t, err)
		got, err := s.Series(t.Context(), web.UUID, sample.MetricCPU, Query{})
		must(t, err)
		if got.Known() != got.Len() || got.End().UnixNano() < last {
			t.Errorf("round %d: %d of %d steps, to %s", round, got.Known(), got.Len(), got.End())
		}
		var ok string
		must(t, s.db.QueryRow("PRAGMA integrity_check").Scan(&ok))
		if ok != "ok" {
			t.Error(ok)
		}
		must(t, s.Close())
	}
}

func TestBadSeriesAreRefused(t *testing.T) {
	s := open(t, Options{})
	good := ramp(sample.MetricCPU, begin, time.Second, 3)
	for say, change := range map[string]func(*sample.Series){
		"no name": func(x *sample.Series) { x.Name = "" }, "a step of": func(x *sample.Series) { x.Step = 0 }, "infinite": func(x *sample.Series) { x.Values[1] = math.Inf(1) },
		"begins in 9000": func(x *sample.Series) { x.Start = begin.AddDate(9000-2026, 0, 0) },
	} {
		bad := good
		bad.Values = append([]float64{}, good.Values...)
		change(&bad)
		err := s.Put(t.Context(), Batch{Guest: web, Metrics: []sample.Series{good, bad}})
		if err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%v, want %q", err, say)
		}
	}
	if _, err := s.Find(t.Context(), "web"); !errors.Is(err, ErrNoGuest) {
		t.Errorf("half of a batch is kept: %v", err)
	}
	if err := s.Put(t.Context(), Batch{Metrics: []sample.Series{good}}); err == nil {
		t.Error("a guest without a UUID")
	}
	put(t, s, web, sample.Series{Name: "cpu"}) // nothing, and no error
}

func TestFilesThatAreNoStore(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "x")
	if _, err := OpenReadOnly(t.Context(), file); !errors.Is(err, ErrAbsent) {
		t.Error(err)
	}
	must(t, os.WriteFile(file, []byte(strings.Repeat("no database\n", 1000)), 0o600))
	if _, err := Open(t.Context(), file, Options{}); !errors.Is(err, ErrDamaged) {
		t.Error(err)
	}
	if _, err := OpenReadOnly(t.Context(), file); !errors.Is(err, ErrDamaged) {
		t.Error(err)
	}
	if _, err := Open(t.Context(), filepath.Join(dir, "y"), Options{MaxBytes: 1}); err == nil {
		t.Error("a store of one byte")
	}
	s := open(t, Options{})
	put(t, s, web, ramp(sample.MetricCPU, begin, time.Second, 3))
	_, err := s.db.Exec("UPDATE blocks SET data = x'00'")
	must(t, err)
	if _, err := s.Series(t.Context(), web.UUID, sample.MetricCPU, Query{}); !errors.Is(err, ErrDamaged) {
		t.Error(err)
	}
	_, err = s.db.Exec("PRAGMA user_version = 99")
	must(t, err)
	if _, err := OpenReadOnly(t.Context(), s.path); !errors.Is(err, ErrNewer) {
		t.Error(err)
	}
	if _, err := Open(t.Context(), s.path, Options{}); !errors.Is(err, ErrNewer) {
		t.Error(err)
	}
}

func TestRatiosLeadToWholeBlocks(t *testing.T) {
	for step, want := range map[time.Duration][levels]int64{
		time.Second: {1, 60, 5}, 64 * time.Second: {1, 1, 5}, 5 * time.Minute: {1, 1, 1}, time.Hour: {1, 1, 1}, 100 * time.Millisecond: {1, 240, 12}, 8 * time.Second: {1, 8, 5},
	} {
		if got := ratios(step); got != want {
			t.Errorf("%s: %v, want %v", step, got, want)
		}
	}
}

// BenchmarkPut keeps ten seconds of a hundred guests, as a host's sampler does at once.
func BenchmarkPut(b *testing.B) {
	s, err := Open(context.Background(), filepath.Join(b.TempDir(), "samples.db"), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	for i := 0; b.Loop(); i++ {
		var all []Batch
		at := begin.Add(time.Duration(i) * 10 * time.Second)
		for g := range 100 {
			x := Batch{Guest: Guest{UUID: strconv.Itoa(g), Name: "g"}}
			for _, m := range sample.Metrics() {
				x.Metrics = append(x.Metrics, ramp(m, at, time.Second, 10))
			}
			all = append(all, x)
		}
		if err := s.Put(context.Background(), all...); err != nil {
			b.Fatal(err)
		}
	}
}
