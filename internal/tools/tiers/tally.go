package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

// event is one line of `go test -json`; see `go doc test2json`.
type event struct {
	Action      string
	Package     string
	ImportPath  string
	Test        string
	Output      string
	Elapsed     float64 // seconds
	FailedBuild string
}

// failure is a test that failed, or a package that did when test is empty.
type failure struct {
	pkg, test, output string
}

// tally is what the events of one tier add up to.
type tally struct {
	passed, failed, skipped int
	failures                []failure
	// skips counts skipped tests by the reason they gave.
	skips   map[string]int
	elapsed time.Duration

	running map[string]*strings.Builder // by package and test; the output so far
	builds  map[string]*strings.Builder // by import path; what the compiler said
	counts  map[string]int              // by package; tests that ended
}

func newTally() *tally {
	return &tally{
		skips:   make(map[string]int),
		running: make(map[string]*strings.Builder),
		builds:  make(map[string]*strings.Builder),
		counts:  make(map[string]int),
	}
}

// progress is told about each package that ends.
type progress func(pkg string, ok bool, tests int, elapsed time.Duration)

// read adds the events of one go test to the tally until the stream ends. A line
// that is no event is something go itself had to say; it is passed on to other.
func (t *tally) read(r io.Reader, done progress, other io.Writer) error {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil || e.Action == "" {
				_, _ = other.Write(line) // best effort: it is only a remark
			} else {
				t.add(e, done)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read test events: %w", err)
		}
	}
}

// key names a running test; that of a package ends in the separator.
func key(pkg, test string) string { return pkg + "\x00" + test }

func (t *tally) add(e event, done progress) {
	switch {
	case e.Action == "build-output":
		builder(t.builds, e.ImportPath).WriteString(e.Output)
	case e.Action == "run" || e.Action == "start" || e.Action == "output":
		builder(t.running, key(e.Package, e.Test)).WriteString(e.Output)
	case e.Action == "pass" || e.Action == "fail" || e.Action == "skip":
		if e.Test == "" {
			t.endPackage(e, done)
		} else {
			t.endTest(e)
		}
	}
}

func (t *tally) endTest(e event) {
	k := key(e.Package, e.Test)
	output := builder(t.running, k).String()
	delete(t.running, k)
	t.counts[e.Package]++
	switch e.Action {
	case "pass":
		t.passed++
	case "skip":
		t.skipped++
		t.skips[reason(output)]++
	case "fail":
		t.failed++
		t.failures = append(t.failures, failure{e.Package, e.Test, output})
	}
}

// endPackage closes a package: what it left unfinished failed with it.
func (t *tally) endPackage(e event, done progress) {
	own := builder(t.running, key(e.Package, "")).String()
	delete(t.running, key(e.Package, ""))
	if e.FailedBuild != "" {
		own = builder(t.builds, e.FailedBuild).String() + own
	}
	before := len(t.failures)
	for _, k := range slices.Sorted(maps.Keys(t.running)) {
		pkg, test, _ := strings.Cut(k, "\x00")
		if pkg != e.Package {
			continue
		}
		t.failed++
		t.failures = append(t.failures, failure{pkg, test, t.running[k].String() + "(did not finish)\n"})
		delete(t.running, k)
	}
	blamed := len(t.failures) > before || slices.ContainsFunc(t.failures, func(f failure) bool { return f.pkg == e.Package })
	if e.Action == "fail" && !blamed {
		t.failed++
		t.failures = append(t.failures, failure{e.Package, "", own})
	}
	if done != nil {
		done(e.Package, e.Action != "fail", t.counts[e.Package], time.Duration(e.Elapsed*float64(time.Second)))
	}
}

// broken records that a tier could not be run at all.
func (t *tally) broken(what string, err error) {
	t.failed++
	t.failures = append(t.failures, failure{pkg: what, output: err.Error() + "\n"})
}

func builder(m map[string]*strings.Builder, k string) *strings.Builder {
	b, ok := m[k]
	if !ok {
		b = new(strings.Builder)
		m[k] = b
	}
	return b
}

var (
	logPosition = regexp.MustCompile(`^\s*[\w.-]+\.go:\d+: `)
	frameLine   = regexp.MustCompile(`^\s*(=== |--- )`)
)

// reason finds in the output of a skipped test the words it was skipped with.
func reason(output string) string {
	var last string
	for line := range strings.Lines(output) {
		line = strings.TrimRight(line, "\n")
		if frameLine.MatchString(line) || strings.TrimSpace(line) == "" {
			continue
		}
		last = strings.TrimSpace(logPosition.ReplaceAllString(line, ""))
	}
	if last == "" {
		return "no reason given"
	}
	return last
}
