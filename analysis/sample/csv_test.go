package sample

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func read(t *testing.T, text string, o CSVOptions) Table {
	t.Helper()
	table, err := ReadCSV(strings.NewReader(text), o)
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return table
}

// same is whether two series are, to the last bit; names and all.
func same(a, b Series) bool {
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

func TestTimesAreReadAsTheyComeAlong(t *testing.T) {
	first := time.Date(2014, 2, 14, 14, 30, 0, 0, time.UTC)
	for _, c := range []string{
		"timestamp,value\n2014-02-14 14:30:00,1\n2014-02-14 14:35:00,2\n",
		"2014-02-14 14:30:00,1\n2014-02-14 14:35:00,2\n",
		"time,value\n2014-02-14T14:30:00Z,1\n2014-02-14T16:35:00+02:00,2\n",
		"\xef\xbb\xbftime;value\r\n1392388200;1\r\n1392388500;2\r\n",
		"Timestamp [ms];\tvalue\n1392388200;\t1.0\n1392388500;\t2.0\n",
		"time\tvalue\n1392388200000\t1\n1392388500000\t2",
		"# a remark\n\ntime,value\n1392388200000000,1\n\n1392388500000000,2\n",
		"time,value\n1392388200000000000,1\n1392388500000000000,2\n",
		"time,value\n1392388200.000,1\n1392388500.0,2\n",
		"time;value\n1.3923882e9;1,0\n1.3923885e9;2,0\n",
		"value,time\n1,2014-02-14 14:30\n2,2014-02-14 14:35\n",
		"\"time\",\"value\"\n\"2014-02-14 14:30:00\",\"1\"\n\"2014-02-14 14:35:00\",\"2\"\n",
		"time,host,value\n2014-02-14 14:30:00,a,1\n2014-02-14 14:35:00,b,2\n",
	} {
		got := read(t, c, CSVOptions{})
		want := Series{Name: "value", Start: first, Step: 5 * time.Minute, Values: []float64{1, 2}}
		if len(got.Series) != 1 || !same(got.Series[0], want) {
			t.Errorf("%q:\n%+v", c, got)
		}
	}
}

func TestTimesWithoutAZoneAreOfTheLocation(t *testing.T) {
	loc, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip(err)
	}
	// The clocks went from 2 to 3 o'clock: no hour is missing.
	got := read(t, "time,v\n2026-03-29 01:00:00,1\n2026-03-29 03:00:00,2\n2026-03-29 04:00:00,3\n", CSVOptions{Location: loc})
	if s := got.Series[0]; s.Step != time.Hour || s.Len() != 3 || got.Absent != 0 {
		t.Errorf("%+v", got)
	}
	// Read as UTC, one is.
	got = read(t, "time,v\n2026-03-29 00:00:00,1\n2026-03-29 01:00:00,1\n2026-03-29 03:00:00,2\n2026-03-29 04:00:00,3\n", CSVOptions{})
	if s := got.Series[0]; s.Len() != 5 || got.Absent != 1 || !math.IsNaN(s.Values[2]) {
		t.Errorf("%+v", got)
	}
}

func TestRowsAreSortedMergedAndMissed(t *testing.T) {
	got := read(t, "time,v\n10,1\n12,3\n11,2\n12,5\n15,\n16,NaN\n17,8\n", CSVOptions{})
	want := Series{Name: "v", Start: time.Unix(10, 0), Step: time.Second, Values: []float64{1, 2, 4, math.NaN(), math.NaN(), math.NaN(), math.NaN(), 8}}
	if !same(got.Series[0], want) || got.Rows != 7 || got.Unordered != 1 || got.Merged != 1 || got.Absent != 2 {
		t.Errorf("%+v", got)
	}
}

func TestTheGridDoesNotDriftFromRowsThatJitter(t *testing.T) {
	var b strings.Builder
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 5000 {
		fmt.Fprintf(&b, "%.3f,%d\n", 1e9+float64(i)+rng.Float64()/10, i)
	}
	got := read(t, b.String(), CSVOptions{})
	if s := got.Series[0]; s.Step != time.Second || s.Len() != 5000 || got.Absent != 0 || got.Merged != 0 {
		t.Errorf("step %s, %d steps, absent %d, merged %d", s.Step, s.Len(), got.Absent, got.Merged)
	}
}

func TestColumnsAreChosenByName(t *testing.T) {
	const text = "time;CPU [MHz];CPU [%];host\n0;100;5;a\n1;200;6;b\n"
	for want, ask := range map[string][]string{"5": {"CPU [%]"}, "100": {"2"}, "100 5": nil, "5 100": {"cpu [%]", "CPU [MHZ]"}} {
		var vals []string
		for _, s := range read(t, text, CSVOptions{Columns: ask}).Series {
			vals = append(vals, fmt.Sprint(s.Values[0]))
		}
		if got := strings.Join(vals, " "); got != want {
			t.Errorf("%q: %s, want %s", ask, got, want)
		}
	}
	s := read(t, text, CSVOptions{Columns: []string{"CPU [%]"}}).Series[0]
	if s.Name != "CPU" || s.Unit != "%" {
		t.Errorf("%+v", s)
	}
}

func TestBadFilesAreNamedWithTheLine(t *testing.T) {
	wide := strings.Repeat("1,", 1_000_000)
	for _, c := range []struct{ text, say string }{
		{"", "no samples"}, {"time,v\n", "no samples"}, {"time,v\n\n#\n", "no samples"},
		{"time,v\n1,2\n", "step"}, {"time,v\n1,2\n1,3\n", "step"},
		{"v\n1\n", "line 1: one column"}, {"time,v\n1,2\n2\n", "line 3: 1 columns, where the first line has 2"},
		{"time,v\n1,2\n2,3,4\n", "line 3: 3 columns"}, {"time,v\n1,2\nsoon,3\n", `line 3: "soon" is no time`},
		{"time,v\n1,2\n2,lots\n", `line 3: column v: "lots" is no number`}, {"time,v\n1,2\n2,-3\n", "line 3: column v: \"-3\" is negative"},
		{"time,v\n1,2\n2,Inf\n", "beyond"}, {"time,v\n1,2\n2,1e999\n", "beyond"}, {"time,v\n1,2\n2014-01-01 00:00:00,3\n", "line 3: the time is written in another way"},
		{"time,v\n1,2\n2,3\n3,4\n999999999,5\n", "more than"}, {"time,v\n1,\"2\n", "line 2: a quote is not closed"}, {"time,v\n1,\"2\"3\n", "closing quote"},
		{"time,a,b\n1,x,y\n", "no column with numbers"}, {wide, "line 1: longer than"}, {wide[:5000], "line 1: more than 1024 columns"},
		{"time,v\n1,2\n" + strings.Repeat("x", MaxLine+1), "line 3: longer than"}, {"time,v\n1800-01-01 00:00:00,1\n", "not between"},
		{"time,v\n-99999999999,1\n5,1\n", "not between"},
	} {
		_, err := ReadCSV(strings.NewReader(c.text), CSVOptions{})
		if err == nil || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%.40q: %v, want %q", c.text, err, c.say)
		}
	}
	for _, ask := range []CSVOptions{{Columns: []string{"x"}}, {Time: "x"}, {Columns: []string{"time"}}, {Step: -1}, {Columns: []string{"a"}}} {
		if _, err := ReadCSV(strings.NewReader("time,a [x],a [y]\n1,2,3\n2,3,4\n"), ask); err == nil {
			t.Errorf("%+v is taken", ask)
		}
	}
	var le *LineError
	if _, err := ReadCSV(strings.NewReader("time,v\n1,2\n2,x\n"), CSVOptions{}); !errors.As(err, &le) || le.Line != 3 || le.Unwrap() == nil {
		t.Error(err)
	}
}

// endless gives rows without end.
type endless struct{ n int }

func (e *endless) Read(p []byte) (int, error) {
	n := 0
	for len(p)-n > 20 {
		e.n++
		n += copy(p[n:], fmt.Sprintf("%d,1\n", e.n))
	}
	return n, nil
}

func TestEndlessFilesAreLeft(t *testing.T) {
	c := &csvReader{lines: bufio.NewScanner(&endless{}), o: CSVOptions{Location: time.UTC}, most: 1000}
	if err := c.readAll(); !errors.Is(err, ErrTooLong) || c.line != 1001 {
		t.Errorf("line %d: %v", c.line, err)
	}
}

func TestNegativeValuesWhereTheyAreWanted(t *testing.T) {
	if got := read(t, "time,v\n1,-2\n2,3\n", CSVOptions{Negative: true}); got.Series[0].Values[0] != -2 {
		t.Errorf("%+v", got)
	}
}

func TestWrittenSeriesAreReadBackExactly(t *testing.T) {
	nan := math.NaN()
	start := time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)
	in := []Series{
		{Name: "dirty", Unit: "B/s", Start: start, Step: 1005 * time.Millisecond, Values: []float64{0.1, nan, 1e300, math.SmallestNonzeroFloat64, nan}},
		{Name: `a "b"; c`, Unit: "%", Start: start, Step: 1005 * time.Millisecond, Values: []float64{nan, 1. / 3, 2, 3, 4}},
	}
	got := roundTrip(t, in)
	if len(got) != 2 || !same(got[0], in[0]) || !same(got[1], in[1]) {
		t.Errorf("%+v", got)
	}
	late := Series{Name: "late", Start: start.Add(2 * in[0].Step), Step: in[0].Step, Values: []float64{7}}
	got = roundTrip(t, []Series{in[0], late})
	if v := got[1].Values; len(v) != 5 || v[2] != 7 || !math.IsNaN(v[0]) || !math.IsNaN(v[4]) {
		t.Errorf("%+v", got[1])
	}
}

func roundTrip(t *testing.T, in []Series) []Series {
	t.Helper()
	var b bytes.Buffer
	if err := WriteCSV(&b, in...); err != nil {
		t.Fatal(err)
	}
	return read(t, b.String(), CSVOptions{}).Series
}

func TestWhatCannotBeWrittenIsRefused(t *testing.T) {
	ok := Series{Name: "x", Start: begin, Step: time.Second, Values: []float64{1}}
	for _, s := range []Series{
		{Name: "x", Start: begin, Step: time.Minute, Values: []float64{1}}, {Name: "x", Start: begin, Step: time.Second}, {Name: "x", Values: []float64{1}},
		{Name: "x", Start: begin.Add(1), Step: time.Second, Values: []float64{1}}, {Name: "x\ny", Start: begin, Step: time.Second, Values: []float64{1}},
		{Name: "x", Start: begin, Step: time.Second, Values: []float64{math.Inf(1)}}, {Name: "x", Start: begin.AddDate(100, 0, 0), Step: time.Second, Values: []float64{1}},
	} {
		if err := WriteCSV(io.Discard, ok, s); err == nil {
			t.Errorf("%+v is written", s)
		}
	}
	if err := WriteCSV(io.Discard); err == nil {
		t.Error("nothing is written")
	}
}

func FuzzReadCSV(f *testing.F) {
	for _, s := range []string{
		"timestamp,value\n2014-02-14 14:30:00,0.132\n2014-02-14 14:35:00,0.134\n", "Timestamp [ms];\tCPU cores;\tCPU [%]\n1376314846;\t1;\t0,5\n1376315146;\t1;\t\n",
		"time\tv\n1.5\t2\n2.5\tNaN\n2.5\t3\n", "1392388200000,1\n1392388500000,2\n1392388300000,3\n", "time,\"a;\"\"b\",[x] [y]\n2026-03-01T00:00:00Z,1,2\n2026-03-01T00:00:01.5+02:00,1,2\n",
	} {
		f.Add([]byte(s), int64(0))
	}
	f.Add([]byte("1,1\n"), int64(time.Second))
	f.Fuzz(func(t *testing.T, data []byte, step int64) {
		o := CSVOptions{Step: time.Duration(step)}
		table, err := ReadCSV(bytes.NewReader(data), o)
		if err != nil || len(table.Series)*table.Series[0].Len() > 1<<16 {
			return
		}
		var b bytes.Buffer
		if err := WriteCSV(&b, table.Series...); err != nil {
			if !strings.Contains(err.Error(), "line break") {
				t.Fatalf("what was read cannot be written: %v", err)
			}
			return
		}
		if n := table.Series[0].Len(); n > 1 && step == 0 {
			o = CSVOptions{}
		} else {
			o.Step = table.Series[0].Step
		}
		o.Columns = nil
		again, err := ReadCSV(&b, o)
		if err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
		if len(again.Series) != len(table.Series) {
			t.Fatalf("%d series, were %d", len(again.Series), len(table.Series))
		}
		for i, s := range table.Series {
			if !same(s, again.Series[i]) {
				t.Fatalf("%+v\nis not\n%+v", again.Series[i], s)
			}
		}
	})
}

func BenchmarkReadCSV(b *testing.B) {
	var text bytes.Buffer
	s := Series{Name: "v", Start: begin, Step: time.Second, Values: make([]float64, 1_000_000)}
	for i := range s.Values {
		s.Values[i] = float64(i) * 1.37
	}
	if err := WriteCSV(&text, s); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(text.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ReadCSV(bytes.NewReader(text.Bytes()), CSVOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}
