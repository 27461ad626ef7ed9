package main

import (
	"encoding/json"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

// stream is the events of a run, one JSON object a line.
func stream(t *testing.T, events ...event) io.Reader {
	t.Helper()
	var b strings.Builder
	for _, e := range events {
		line, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(append(line, '\n'))
	}
	return strings.NewReader(b.String())
}

func sum(t *testing.T, events ...event) *tally {
	t.Helper()
	got := newTally()
	if err := got.read(stream(t, events...), nil, io.Discard); err != nil {
		t.Fatal(err)
	}
	return got
}

func run1(action, test, output string) event {
	return event{Action: action, Package: "p", Test: test, Output: output}
}

func TestTally(t *testing.T) {
	cases := []struct {
		name                    string
		events                  []event
		passed, failed, skipped int
		blamed                  string // what the only failure shows
	}{
		{"all pass", []event{
			run1("run", "TestA", ""), run1("run", "TestA/sub", ""), run1("pass", "TestA/sub", ""),
			run1("pass", "TestA", ""), run1("pass", "", ""),
		}, 2, 0, 0, ""},
		{"one fails, and shows its own output", []event{
			run1("run", "TestA", ""), run1("output", "TestA", "of A\n"), run1("run", "TestB", ""),
			run1("output", "TestB", "of B\n"), run1("fail", "TestB", ""), run1("pass", "TestA", ""), run1("fail", "", ""),
		}, 1, 1, 0, "of B\n"},
		{"skipped", []event{
			run1("run", "TestA", ""), run1("output", "TestA", "    a_test.go:3: needs kvm\n"), run1("skip", "TestA", ""), run1("pass", "", ""),
		}, 0, 0, 1, ""},
		{"a package without tests", []event{run1("skip", "", "")}, 0, 0, 0, ""},
		{"unfinished when the package dies", []event{
			run1("run", "TestA", ""), run1("output", "TestA", "panic: test timed out\n"), run1("fail", "", ""),
		}, 0, 1, 0, "panic: test timed out\n(did not finish)\n"},
		{"unfinished although the package says pass", []event{
			run1("run", "TestA", ""), run1("pass", "", ""),
		}, 0, 1, 0, "(did not finish)\n"},
		{"TestMain fails", []event{
			run1("run", "TestA", ""), run1("pass", "TestA", ""), run1("output", "", "goroutines leaked\n"), run1("fail", "", ""),
		}, 1, 1, 0, "goroutines leaked\n"},
		{"does not build", []event{
			{Action: "build-output", ImportPath: "p [p.test]", Output: "a.go:1: no\n"},
			{Action: "build-fail", ImportPath: "p [p.test]"},
			{Action: "start", Package: "p"},
			{Action: "output", Package: "p", Output: "FAIL p [build failed]\n"},
			{Action: "fail", Package: "p", FailedBuild: "p [p.test]"},
		}, 0, 1, 0, "a.go:1: no\nFAIL p [build failed]\n"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := sum(t, c.events...)
			if got.passed != c.passed || got.failed != c.failed || got.skipped != c.skipped {
				t.Errorf("%d passed, %d failed, %d skipped; want %d, %d, %d",
					got.passed, got.failed, got.skipped, c.passed, c.failed, c.skipped)
			}
			if len(got.failures) != c.failed {
				t.Fatalf("failures %+v, want %d", got.failures, c.failed)
			}
			if c.failed == 1 && got.failures[0].output != c.blamed {
				t.Errorf("output %q, want %q", got.failures[0].output, c.blamed)
			}
		})
	}
}

// The same test name in two packages is two tests.
func TestTallyKeepsPackagesApart(t *testing.T) {
	got := sum(t,
		event{Action: "run", Package: "p", Test: "TestA"}, event{Action: "run", Package: "q", Test: "TestA"},
		event{Action: "output", Package: "q", Test: "TestA", Output: "of q\n"},
		event{Action: "fail", Package: "q", Test: "TestA"}, event{Action: "fail", Package: "q"},
		event{Action: "pass", Package: "p", Test: "TestA"}, event{Action: "pass", Package: "p"},
	)
	if got.passed != 1 || got.failed != 1 || got.failures[0].pkg != "q" || got.failures[0].output != "of q\n" {
		t.Errorf("got %d passed, failures %+v", got.passed, got.failures)
	}
}

// What failed is said when its package ends, and not at the end of a run alone.
func TestBlame(t *testing.T) {
	got := sum(t,
		event{Action: "output", Package: "p", Test: "TestA", Output: "=== RUN TestA\n"},
		event{Action: "output", Package: "p", Test: "TestA", Output: "    a_test.go:3: lost\n" + strings.Repeat("more\n", 100)},
		event{Action: "fail", Package: "p", Test: "TestA"}, event{Action: "fail", Package: "p"},
		event{Action: "fail", Package: "q", Test: "TestB"}, event{Action: "fail", Package: "q"},
	)
	var b strings.Builder
	got.blame(&b, "p")
	want := "      failed: TestA\n        a_test.go:3: lost\n" + strings.Repeat("        more\n", blameLines-1)
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

// What is no event is passed on, however long the lines are.
func TestReadPassesOnRemarks(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	in := "go: downloading m\n{\"Action\":\"run\",\"Package\":\"p\",\"Test\":\"T\"}\n" +
		"{\"Action\":\"output\",\"Package\":\"p\",\"Test\":\"T\",\"Output\":\"" + long + "\"}\n" +
		"{\"Action\":\"fail\",\"Package\":\"p\",\"Test\":\"T\"}"
	var other strings.Builder
	got := newTally()
	if err := got.read(strings.NewReader(in), nil, &other); err != nil {
		t.Fatal(err)
	}
	if other.String() != "go: downloading m\n" {
		t.Errorf("passed on %q", other.String())
	}
	if got.failed != 1 || len(got.failures[0].output) != 1<<20 {
		t.Errorf("%d failed", got.failed)
	}
}

func TestReadTellsProgress(t *testing.T) {
	var told []string
	show := func(pkg string, ok bool, tests int, elapsed time.Duration) {
		told = append(told, pkg+" "+verdict(ok))
		if tests != 1 || elapsed != 1500*time.Millisecond {
			t.Errorf("%s: %d tests in %v, want 1 in 1.5s", pkg, tests, elapsed)
		}
	}
	in := stream(t,
		event{Action: "run", Package: "p", Test: "A"}, event{Action: "pass", Package: "p", Test: "A"},
		event{Action: "pass", Package: "p", Elapsed: 1.5},
		event{Action: "run", Package: "q", Test: "A"}, event{Action: "fail", Package: "q", Test: "A"},
		event{Action: "fail", Package: "q", Elapsed: 1.5})
	if err := newTally().read(in, show, io.Discard); err != nil {
		t.Fatal(err)
	}
	if want := []string{"p ok", "q FAIL"}; !slices.Equal(told, want) {
		t.Errorf("told %v, want %v", told, want)
	}
}

func TestReason(t *testing.T) {
	for output, want := range map[string]string{
		"=== RUN   TestX\n    x_test.go:12: needs kvm: no device; remedy: load it\n--- SKIP: TestX (0.00s)\n": "needs kvm: no device; remedy: load it",
		"=== RUN   TestX\n    x_test.go:1: a log line\n    x_test.go:12: why\n--- SKIP: TestX (0.00s)\n":      "why",
		"=== RUN   TestX\n--- SKIP: TestX (0.00s)\n":                                                          "no reason given",
	} {
		if got := reason(output); got != want {
			t.Errorf("reason of %q is %q, want %q", output, got, want)
		}
	}
}
