package replay

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/postcopy/prepage"
)

func TestTraceTravels(t *testing.T) {
	trace := Workload{Pages: 4096, Touches: 2000, Threads: 3, Think: time.Microsecond, Seed: 5}.Mixed()
	trace.Blocks[0].Name = `odd, "quoted" name`
	trace.Missing[0].ClearRange(100, 200)
	trace.Cost = 77
	var buf bytes.Buffer
	if err := trace.Write(&buf); err != nil {
		t.Fatal(err)
	}
	back, err := Read(&buf)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(back, trace) {
		t.Errorf("what was read differs:\n%+v\n%+v", back, trace)
	}
}

func TestReadFillsIn(t *testing.T) {
	trace, err := Read(strings.NewReader("vmmigrate.faults,1\nblock,a,8192,4096\n"))
	if err != nil {
		t.Fatal(err)
	}
	if trace.Missing.Count() != 2 || len(trace.Faults) != 0 {
		t.Errorf("%+v", trace)
	}
}

func TestReadRefuses(t *testing.T) {
	const head = "vmmigrate.faults,1\nblock,a,8192,4096\n"
	for name, text := range map[string]string{
		"nothing":           "",
		"another format":    "time,block,page\n",
		"another version":   "vmmigrate.faults,2\nblock,a,8192,4096\n",
		"no blocks":         "vmmigrate.faults,1\n",
		"a block after":     head + "hot,0,1\nblock,b,8192,4096\n",
		"a huge block":      "vmmigrate.faults,1\nblock,a,70368744177664,4096\n",
		"no page size":      "vmmigrate.faults,1\nblock,a,8192,0\n",
		"an unknown record": head + "warm,0,1\n",
		"too few values":    head + "fault,0,0,1\n",
		"no such page":      head + "fault,0,0,2,0\n",
		"no such block":     head + "hot,1,0\n",
		"a negative page":   head + "hot,0,-1\n",
		"empty run":         head + "missing,0,1,1\n",
		"a run too long":    head + "missing,0,1,3\n",
		"time backwards":    head + "fault,5,0,1,0\nfault,4,0,0,0\n",
		"too hot":           head + "hot,0,0\nhot,0,0\nhot,0,0\n",
		"a long line":       head + "fault," + strings.Repeat("0", maxLine) + ",0,0,0\n",
		"no thread":         head + "fault,0,0,0,99999999999\n",
	} {
		if got, err := Read(strings.NewReader(text)); err == nil {
			t.Errorf("%s is taken: %+v", name, got)
		} else if name == "time backwards" && !strings.Contains(err.Error(), "line 4") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errLongLine }

// An error of the file is told at the end, at the latest.
func TestRecorderTellsOfErrors(t *testing.T) {
	trace := tiny()
	r, err := NewRecorder(brokenWriter{}, trace.Blocks, trace.Missing, nil, 0)
	if err != nil {
		return
	}
	r.Fault(0, 0, 0, 1)
	if r.Close() == nil {
		t.Error("nothing was written and nobody knows")
	}
}

// What is read can be written, read again and played, and nothing that a file says takes more memory than it is long by
// much.
func FuzzRead(f *testing.F) {
	var buf bytes.Buffer
	_ = tiny().Write(&buf)
	f.Add(buf.String())
	f.Add("vmmigrate.faults,1\nblock,a,8192,4096\nblock,\"b,\",4194304,2097152\nmissing,0,0,1\nmissing,1,0,2\nhot,1,1\nfault,7,1,0,3\n")
	f.Fuzz(func(t *testing.T, text string) {
		trace, err := Read(strings.NewReader(text))
		if err != nil {
			return
		}
		var buf bytes.Buffer
		if err := trace.Write(&buf); err != nil {
			t.Fatal(err)
		}
		back, err := Read(&buf)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(back, trace) {
			t.Fatalf("%+v became %+v", trace, back)
		}
		if trace.Missing.Count() > 1<<12 {
			return
		}
		for _, policy := range prepage.Names() {
			r, err := Play(trace, policy, Link{RTT: time.Millisecond, Bandwidth: 1e8})
			if err != nil || r.Pages+r.Faults-r.UnderWay < trace.Missing.Count() {
				t.Fatalf("%+v: %v", r, err)
			}
		}
	})
}
