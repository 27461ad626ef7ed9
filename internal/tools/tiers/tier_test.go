package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// Every test belongs to exactly one tier.
func TestEveryTestHasOneTier(t *testing.T) {
	for name, want := range map[string]string{
		"TestAnything": "T0", "TestTally": "T0", "ExampleTree": "T0", "FuzzDecode": "T0", "TestT0Pure": "T0",
		"TestTs1": "T0", "TestT5": "T0", "TestT1WriteProtect": "T1", "TestT2Link": "T2", "TestT3Native": "T3", "TestT4": "T4",
	} {
		var in []string
		for _, tier := range tiers() {
			match := regexp.MustCompile(tier.pattern()).MatchString(name)
			if match != tier.isBase() {
				in = append(in, tier.name)
			}
		}
		if !slices.Equal(in, []string{want}) {
			t.Errorf("%s is in %v, want %s", name, in, want)
		}
	}
}

func TestPick(t *testing.T) {
	if got, err := pick(nil); err != nil || len(got) != 5 {
		t.Errorf("picked %v, %v; want all five", got, err)
	}
	got, err := pick([]string{"t3", "T0"})
	if err != nil || len(got) != 2 || got[0].name != "T3" || got[1].name != "T0" {
		t.Errorf("picked %v, %v; want T3, T0", got, err)
	}
	if _, err := pick([]string{"T7"}); err == nil {
		t.Error("T7 was accepted")
	}
}

func TestArgs(t *testing.T) {
	for name, want := range map[string][]string{
		"T0": {"-skip ^TestT[1-4]", "-race", "-gcflags=modernc.org/...=-race=false"},
		"T1": {"-run ^TestT1", "-count=1"},
		"T4": {"-run ^TestT4", "-count=1", "-p 1"},
	} {
		picked, err := pick([]string{name})
		if err != nil {
			t.Fatal(err)
		}
		args := strings.Join(picked[0].args(options{race: true}, []string{"a", "b"}), " ")
		for _, part := range want {
			if !strings.Contains(args, part) {
				t.Errorf("%s: %q lacks %q", name, args, part)
			}
		}
		if !strings.HasSuffix(args, " a b") {
			t.Errorf("%s: %q does not end in the packages", name, args)
		}
	}
}

// A package in which goroutines run has the race detector.
func TestUnracedPackagesStartNoGoroutines(t *testing.T) {
	root, own := filepath.Join("..", "..", ".."), 0
	for _, p := range unraced() {
		dir, ok := strings.CutPrefix(p, "github.com/vmmigrate/vmmigrate/")
		if !ok {
			continue
		}
		own++
		files, err := filepath.Glob(filepath.Join(root, dir, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", dir, len(files), err)
		}
		for _, f := range files {
			if text, err := os.ReadFile(f); err != nil || startsOne.Match(text) {
				t.Errorf("%s starts a goroutine, or has parallel tests: %v", f, err)
			}
		}
	}
	if own == 0 {
		t.Error("none of ours")
	}
}

var startsOne = regexp.MustCompile(`(?m)^\s*go [a-zA-Z(]|\.(Go|Parallel|RunParallel)\(`)

// T0 takes all packages, since vetting and examples count too; others only their own.
func TestPackagesOf(t *testing.T) {
	all := []candidate{{"none", nil}, {"pure", []string{"TestA"}}, {"both", []string{"TestA", "TestT3B"}}}
	for name, want := range map[string][]string{
		"T0": {"none", "pure", "both"}, "T3": {"both"}, "T4": nil,
	} {
		picked, err := pick([]string{name})
		if err != nil {
			t.Fatal(err)
		}
		if got := packagesOf(picked[0], all); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

func TestTestsIn(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x_test.go")
	text := "package x\n\nfunc TestA(t *testing.T) {}\n\n// func TestNo(\nfunc helper() {}\nfunc TestT2B(t *testing.T) {}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := testsIn([]string{file})
	if want := []string{"TestA", "TestT2B"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	if _, err := testsIn([]string{file + ".gone"}); err == nil {
		t.Error("a missing file was accepted")
	}
}

func TestReport(t *testing.T) {
	t3 := tiers()[3]
	failed := &tally{passed: 2, failed: 1, elapsed: 90 * time.Second,
		failures: []failure{{"github.com/vmmigrate/vmmigrate/qmp", "TestT3X", "no answer\n"}}}
	skipped := &tally{passed: 1, skipped: 2, skips: map[string]int{"needs kvm": 2}}
	var b strings.Builder
	line := report(&b, []result{{t3, failed}, {tiers()[4], skipped}})
	if want := "3 passed, 1 failed, 2 skipped"; line != want || !strings.HasSuffix(b.String(), "\n"+want+"\n") {
		t.Errorf("closing line %q of\n%s\nwant %q, on a line of its own", line, b.String(), want)
	}
	for _, part := range []string{"--- FAIL T3 qmp TestT3X\n    no answer\n", "skipped: T4, 2 tests: needs kvm\n", "90.0s", "failed: T3 qmp TestT3X\n"} {
		if !strings.Contains(b.String(), part) {
			t.Errorf("the report lacks %q:\n%s", part, b.String())
		}
	}
}
