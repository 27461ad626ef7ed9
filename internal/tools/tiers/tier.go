package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"
)

// tier is a set of tests that need the same things of a machine.
type tier struct {
	name  string
	about string
	// alone is whether packages run one at a time.
	alone bool
	// timeout bounds the tests of one package.
	timeout time.Duration
}

// tiers lists them all, from the least demanding up.
func tiers() []tier {
	return []tier{
		{name: "T0", about: "pure", timeout: 5 * time.Minute},
		{name: "T1", about: "kernel", timeout: 5 * time.Minute},
		{name: "T2", about: "namespaces and links", alone: true, timeout: 5 * time.Minute},
		{name: "T3", about: "QEMU", alone: true, timeout: 10 * time.Minute},
		{name: "T4", about: "libvirt, two hosts", alone: true, timeout: 15 * time.Minute},
	}
}

// pick returns the tiers of the given names, all of them when there are none.
func pick(names []string) ([]tier, error) {
	if len(names) == 0 {
		return tiers(), nil
	}
	var picked []tier
	for _, name := range names {
		i := slices.IndexFunc(tiers(), func(t tier) bool { return strings.EqualFold(t.name, name) })
		if i < 0 {
			return nil, fmt.Errorf("no tier is called %q; they are T0 to T4", name)
		}
		picked = append(picked, tiers()[i])
	}
	return picked, nil
}

// isBase is whether the tier takes every test that belongs to no other tier.
func (t tier) isBase() bool { return t.name == "T0" }

// pattern matches the names of the tier's tests, or for T0 those of all others.
func (t tier) pattern() string {
	if t.isBase() {
		return "^TestT[1-4]"
	}
	return "^Test" + t.name
}

// args are the arguments of go that run the tier's tests in packages.
func (t tier) args(opt options, packages []string) []string {
	args := []string{"test", "-json", "-vet=off", "-timeout", t.timeout.String()}
	if opt.race {
		args = append(args, "-race")
		for _, p := range unraced() {
			args = append(args, "-gcflags="+p+"=-race=false -d=checkptr=0")
		}
	}
	if t.isBase() {
		args = append(args, "-skip", t.pattern())
	} else {
		// What the machine does is not in the test cache's key.
		args = append(args, "-count=1", "-run", t.pattern())
	}
	if t.alone {
		args = append(args, "-p", "1")
	}
	return append(args, packages...)
}

// unraced are packages that are built without the race detector's code, which makes them ten times as slow: those of ours that
// compute on one goroutine, and what others have written in which no goroutine of ours meets another but behind a lock.
func unraced() []string {
	return []string{
		"modernc.org/...", "gonum.org/...",
		"github.com/vmmigrate/vmmigrate/analysis/advise", "github.com/vmmigrate/vmmigrate/analysis/cycle",
		"github.com/vmmigrate/vmmigrate/analysis/forecast", "github.com/vmmigrate/vmmigrate/analysis/synth",
	}
}

// candidate is a package with the names of its tests.
type candidate struct {
	path  string
	tests []string
}

// packagesOf returns those packages that have tests of the tier.
func packagesOf(t tier, all []candidate) []string {
	match := regexp.MustCompile(t.pattern())
	var paths []string
	for _, c := range all {
		if t.isBase() || slices.ContainsFunc(c.tests, match.MatchString) {
			paths = append(paths, c.path)
		}
	}
	return paths
}

// candidates asks go which packages there are, and their files which tests.
func candidates(ctx context.Context, patterns []string) ([]candidate, error) {
	format := `{{.ImportPath}}{{$d := .Dir}}{{range .TestGoFiles}}` + "\t" + `{{$d}}/{{.}}{{end}}` +
		`{{range .XTestGoFiles}}` + "\t" + `{{$d}}/{{.}}{{end}}`
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "go", append([]string{"list", "-e", "-f", format}, patterns...)...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list packages: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	var all []candidate
	for line := range strings.Lines(string(out)) {
		fields := strings.Split(strings.TrimSpace(line), "\t")
		tests, err := testsIn(fields[1:])
		if err != nil {
			return nil, err
		}
		all = append(all, candidate{path: fields[0], tests: tests})
	}
	return all, nil
}
