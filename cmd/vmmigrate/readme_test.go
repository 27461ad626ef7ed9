package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/testenv"
)

const (
	readmeFile = "../../README.md"
	// labSection is the heading whose commands are one script that brings a lab up, uses it and takes it down.
	labSection = "The first ten minutes"
)

// notRun are the README's commands that no test can run, and what is held to be true of them instead.
var notRun = map[string]struct {
	why   string
	check func(t *testing.T, line string)
}{
	"make demo   # install what is missing, build, move a live guest": {"installs packages; `lab demo` is tested as such", targetsExist},
	"make test   # the same for the tests, and run all of them":       {"runs this very test", targetsExist},
	"make build assets": {"builds what these tests are run with", targetsExist},
	"export PATH=$PWD/build:$PATH VMMIGRATE_ASSETS=$PWD/build/guest":                                             {"the tests have both already", nil},
	"vmmigrate check web qemu+ssh://b/system --copy-storage-all":                                                 {"names a host that is not there", parses},
	"vmmigrate migrate web qemu+ssh://b/system --copy-storage-all":                                               {"names a host that is not there", parses},
	"vmmigrate migrate web qemu+ssh://b/system --copy-storage-all --disk vda=/srv/images/web.qcow2,format=qcow2": {"names a host that is not there", parses},
	"vmmigrate migrate web qemu+ssh://b/system --copy-storage-all --dry-run":                                     {"names a host that is not there", parses},
	"vmmigrate migrate web qemu+tls://b/system --p2p --postcopy --bandwidth 500mbit":                             {"names a host that is not there", parses},
	"vmmigrate migrate web qemu+tls://b/system --tls --strategy precopy --max-downtime 50ms --max-duration 5m":   {"names a host that is not there", parses},
	"vmmigrate migrate web qemu+ssh://b/system --copy-storage-all --when 22:30":                                  {"names a host that is not there; TestT4When waits", parses},
	"vmmigrate analyze requests.csv --html requests.html":                                                        {"needs a file; TestScripts has one", example},
	"vmmigrate plan web qemu+ssh://b/system --copy-storage-all --deadline 06:00":                                 {"names a host that is not there; TestT4Plan does it", example},
	"vmmigrate migrate web qemu+ssh://b/system --copy-storage-all --when cycle --deadline 06:00":                 {"names a host that is not there", parses},
	"vmmigrate watch web db": {"names guests that are not there; TestT4WatchGuest does it", example},
	"vmmigrate watch --print-unit >/etc/systemd/system/vmmigrate-watch.service": {"writes into /etc; TestWatchUsage does it elsewhere", nil},
	"vmmigrate watch web --export web.csv":                                      {"needs samples; TestT4WatchGuest has some", example},
	"vmmigrate watch --import trace.csv --as trace":                             {"needs a file; TestImportedSeriesAreExportedAsTheyWere has one", example},
	"vmmigrate simulate web.csv --ram 8GiB --link 10gbit --wait 1h":             {"needs a file; TestScripts has one", example},
	"vmmigrate hurry web":  {"needs a migration that waits; TestT4When does it", example},
	"vmmigrate cancel web": {"needs a migration that waits; TestT4When does it", example},
	"vmmigrate agent --listen :16510 --allow a.example.org":                      {"a service, with a host's certificates", example},
	"vmmigrate migrate web qemu+ssh://b/system --engine nbd --prepage bubble":    {"names a host that is not there", parses},
	"vmmigrate migrate web qemu+ssh://b/system --engine nbd --keep-copy":         {"names a host that is not there; TestT4NBDReuse does it", parses},
	"vmmigrate migrate web qemu+ssh://a/system --engine nbd --reuse --keep-copy": {"names a host that is not there; TestT4NBDReuse does it", parses},
	"vmmigrate kept": {"tells of this machine's own; TestScripts does it", example},
	"vmmigrate export web --socket /run/web.sock --track":                                  {"names a guest that is not there; TestT4Export does it", example},
	"nbdinfo --map 'nbd+unix:///ram?socket=/run/web.sock'":                                 {"TestT4Export does it", nil},
	"nbdcopy 'nbd+unix:///ram?socket=/run/web.sock' web.ram":                               {"TestT4Export does it", nil},
	"vmmigrate bench dirty-rates prepage outrun --out results":                             {"takes many minutes", example},
	"vmmigrate check -c qemu+qmp:///run/a.qmp - qemu+qmp:///run/b.qmp":                     {"names a QEMU that is not there", parses},
	"vmmigrate migrate -c qemu+qmp:///run/a.qmp - qemu+qmp:///run/b.qmp --strategy hybrid": {"names a QEMU that is not there", parses},
}

// typed is a command of the README with what it shows of its output.
type typed struct {
	section, line string
	shown         []string
}

// fenced is a block of the README between ``` lines.
type fenced struct {
	section, kind string
	lines         []string
}

// readmeBlocks are the README's blocks of that kind.
func readmeBlocks(t *testing.T, kind string) []fenced {
	t.Helper()
	text, err := os.ReadFile(readmeFile)
	if err != nil {
		t.Fatal(err)
	}
	var out []fenced
	section, open := "", false
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\n")
		mark, isMark := strings.CutPrefix(line, "```")
		switch {
		case isMark && !open:
			open = true
			out = append(out, fenced{section: section, kind: mark})
		case isMark:
			open = false
		case open:
			out[len(out)-1].lines = append(out[len(out)-1].lines, line)
		case strings.HasPrefix(line, "## "):
			section = strings.TrimPrefix(line, "## ")
		}
	}
	out = slices.DeleteFunc(out, func(b fenced) bool { return b.kind != kind })
	if len(out) == 0 {
		t.Fatalf("the README has no block of kind %q", kind)
	}
	return out
}

// readmeCommands are the command lines of the README, each on one line.
func readmeCommands(t *testing.T) []typed {
	t.Helper()
	var out []typed
	for _, b := range readmeBlocks(t, "console") {
		for _, line := range b.lines {
			switch cmd, isCmd := strings.CutPrefix(line, "$ "); {
			case isCmd:
				out = append(out, typed{section: b.section, line: cmd})
			case len(out) > 0 && strings.HasSuffix(out[len(out)-1].line, `\`):
				last := &out[len(out)-1]
				last.line = strings.TrimSuffix(last.line, `\`) + strings.TrimSpace(line)
			case len(out) > 0:
				last := &out[len(out)-1]
				last.shown = append(last.shown, line)
			}
		}
	}
	return out
}

// runnable are the commands of one section, or of all others, that a test can run.
func runnable(t *testing.T, section string, inside bool) []typed {
	t.Helper()
	return slices.DeleteFunc(readmeCommands(t), func(c typed) bool {
		_, listed := notRun[c.line]
		return listed || (c.section == section) != inside
	})
}

// TestREADME runs what the README says outside of the lab's section.
func TestREADME(t *testing.T) {
	dir := t.TempDir()
	env := append(os.Environ(), testenv.DirEnv+"="+dir+"/labs", "VMMIGRATE_STATE_DIR="+dir+"/state")
	script := runnable(t, labSection, false)
	if len(script) == 0 {
		t.Fatal("the README has no command that needs no lab")
	}
	runTyped(t, dir, env, script)
}

// TestREADMEUntested holds what cannot be run to what can be said of it, and the list to the README.
func TestREADMEUntested(t *testing.T) {
	found := map[string]bool{}
	for _, c := range readmeCommands(t) {
		entry, listed := notRun[c.line]
		if listed && entry.check != nil && !found[c.line] {
			entry.check(t, c.line)
		}
		found[c.line] = true
	}
	for line, entry := range notRun {
		if !found[line] {
			t.Errorf("not in the README any more (%s): %s", entry.why, line)
		}
	}
}

// TestT4README does what the README says of the first ten minutes, in order.
func TestT4README(t *testing.T) {
	need.Libvirt(t)
	need.Netns(t)
	dir, err := os.MkdirTemp("/var/tmp", "rd") // short, for the paths of sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(dir) })
	env := append(os.Environ(), testenv.DirEnv+"="+dir, "VMMIGRATE_STATE_DIR="+t.TempDir())
	guardLab(t, env)
	script := runnable(t, labSection, true)
	got := runTyped(t, t.TempDir(), env, script)
	for i, c := range script {
		out := strings.ReplaceAll(got[i], dir, testenv.DefaultDir)
		if missing := firstMissing(c.shown, out); missing != "" {
			t.Errorf("$ %s\nprints no such line: %s\nbut:\n%s", c.line, missing, out)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("after the last command there is left: %v, %v", left, err)
	}
}

// guardLab takes the lab down when the test ends, and also when this process is killed: its helper waits for the end of
// a pipe that this process holds.
func guardLab(t *testing.T, env []string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	helper := exec.Command("sh", "-c", "cat >/dev/null; exec vmmigrate lab down")
	helper.Env, helper.Stdin = env, r
	var out bytes.Buffer
	helper.Stdout, helper.Stderr = &out, &out
	helper.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := helper.Start(); err != nil {
		w.Close()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.Close()
		if err := helper.Wait(); err != nil {
			t.Errorf("lab down: %v\n%s", err, out.String())
		}
	})
}

// runTyped runs commands in one shell, as they would be typed, and returns what each of them printed.
func runTyped(t *testing.T, dir string, env []string, script []typed) []string {
	t.Helper()
	const mark = "@@@ "
	var b strings.Builder
	b.WriteString("set -eu -o pipefail\n")
	for i, c := range script {
		fmt.Fprintf(&b, "echo; echo '%s%d'\n%s\n", mark, i, c.line)
	}
	ctx, stop := context.WithTimeout(t.Context(), 2*patience)
	defer stop()
	cmd := exec.CommandContext(ctx, "bash", "-c", b.String())
	cmd.Dir, cmd.Env = dir, env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	all, err := cmd.CombinedOutput()
	got := make([]string, len(script))
	last := 0
	for part := range strings.SplitSeq(string(all), "\n"+mark) {
		number, text, _ := strings.Cut(part, "\n")
		if i, err := strconv.Atoi(number); err == nil && i < len(got) {
			got[i], last = text, i
		}
	}
	if err != nil {
		t.Fatalf("$ %s\n%s: %v", script[last].line, got[last], err)
	}
	return got
}

// What differs from one run to the next.
var (
	anyID     = regexp.MustCompile(`\bm-[a-z2-7]{8}\b`)
	anyNumber = regexp.MustCompile(`[0-9]+(\.[0-9]+)?(ms|µs|s|m)?`)
	anySpace  = regexp.MustCompile(`[\s-]+`)
)

// alike is a line without what differs from run to run.
func alike(line string) string {
	line = anyNumber.ReplaceAllString(anyID.ReplaceAllString(line, "ID"), "N")
	return strings.TrimSpace(anySpace.ReplaceAllString(line, " "))
}

// firstMissing is the first of the shown lines that does not come in the output, each after the one before. A line of …
// stands for any.
func firstMissing(shown []string, output string) string {
	lines := strings.Split(output, "\n")
	for _, want := range shown {
		if want == "…" || alike(want) == "" {
			continue
		}
		i := slices.IndexFunc(lines, func(have string) bool { return alike(have) == alike(want) })
		if i < 0 {
			return want
		}
		lines = lines[i+1:]
	}
	return ""
}

// The comparison has to be able to fail.
func TestFirstMissing(t *testing.T) {
	const out = "Migration m-abcdefgh of web: completed\n\n  total   6.01 s\nlonger by 12.5ms\n"
	for _, c := range []struct{ shown, missing string }{
		{"Migration m-qspkcusw of web: completed\n…\nlonger by 3s", ""},
		{"  total 7 s", ""},
		{"", ""},
		{"Migration m-qspkcusw of web: failed", "Migration m-qspkcusw of web: failed"},
		{"longer by 3s\n  total 7 s", "  total 7 s"},
	} {
		if got := firstMissing(strings.Split(c.shown, "\n"), out); got != c.missing {
			t.Errorf("%q: %q is missing, want %q", c.shown, got, c.missing)
		}
	}
}

// targetsExist: the Makefile has the targets that a line names.
func targetsExist(t *testing.T, line string) {
	t.Helper()
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ = strings.Cut(line, "#")
	for _, target := range strings.Fields(line)[1:] {
		if !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(target) + `:.* ## `).Match(makefile) {
			t.Errorf("%s: the Makefile has no target %s", line, target)
		}
	}
}

// parses: the command and its options exist and make an order; nobody is asked.
func parses(t *testing.T, line string) {
	t.Helper()
	args := strings.Fields(line)[1:]
	var out bytes.Buffer
	if code := run(t.Context(), append(args, "--help"), strings.NewReader(""), &out, &out); code != exitDone {
		t.Errorf("%s: exit code %d: %s", line, code, out.String())
	}
	g, f, cmd := &globals{stateDir: t.TempDir()}, &migrateFlags{}, &cobra.Command{}
	when := &whenFlags{}
	f.register(cmd)
	when.register(cmd.Flags())
	cmd.Flags().StringVarP(&g.connect, "connect", "c", "", "")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "")
	if err := cmd.ParseFlags(args[1:]); err != nil {
		t.Errorf("%s: %v", line, err)
		return
	}
	if _, err := f.order(g, cmd.Flags().Args()); err != nil {
		t.Errorf("%s: %v", line, err)
	}
	if _, err := when.moment(time.Now()); err != nil {
		t.Errorf("%s: %v", line, err)
	}
}

// TestREADMEJSON: what the README shows of report and progress is as their schemas say.
func TestREADMEJSON(t *testing.T) {
	for _, b := range readmeBlocks(t, "json") {
		text := strings.Join(b.lines, "\n")
		var head struct {
			Schema string `json:"schema"`
		}
		if err := json.Unmarshal([]byte(text), &head); err != nil {
			t.Errorf("%v in\n%s", err, text)
			continue
		}
		if head.Schema == migrate.ReportSchema {
			conform(t, migrate.ReportJSONSchema(), text)
		} else {
			conform(t, migrate.ProgressJSONSchema(), text)
		}
	}
}

// TestREADMEGo: the Go code that the README shows is part of the example that is compiled and run.
func TestREADMEGo(t *testing.T) {
	example, err := os.ReadFile("../../migrate/engine/example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	squeeze := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	for _, b := range readmeBlocks(t, "go") {
		if text := strings.Join(b.lines, "\n"); !strings.Contains(squeeze(string(example)), squeeze(text)) {
			t.Errorf("the compiled example has no such code:\n%s", text)
		}
	}
}

var linkTo = regexp.MustCompile(`\]\(([^)#:]+)\)`)

// TestREADMELinks: every file that the README points at is there.
func TestREADMELinks(t *testing.T) {
	text, err := os.ReadFile(readmeFile)
	if err != nil {
		t.Fatal(err)
	}
	links := linkTo.FindAllStringSubmatch(string(text), -1)
	if len(links) == 0 {
		t.Fatal("the README has no links")
	}
	for _, m := range links {
		if _, err := os.Stat(filepath.Join(filepath.Dir(readmeFile), m[1])); err != nil {
			t.Errorf("a link leads nowhere: %v", err)
		}
	}
}

// TestHelpFits: the help of every command fits a terminal of 80 columns, says more than its name, and has examples that
// the program takes.
func TestHelpFits(t *testing.T) {
	root := newRoot(strings.NewReader(""), io.Discard, io.Discard)
	root.InitDefaultHelpCmd()
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		for _, c := range cmd.Commands() {
			walk(c)
		}
		var out bytes.Buffer
		args := append(strings.Fields(cmd.CommandPath())[1:], "--help")
		if code := run(t.Context(), args, strings.NewReader(""), &out, &out); code != exitDone {
			t.Errorf("%s --help: exit code %d", cmd.CommandPath(), code)
		}
		for line := range strings.Lines(out.String()) {
			if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 80 {
				t.Errorf("%s --help: %d columns: %s", cmd.CommandPath(), n, line)
			}
		}
		for line := range strings.Lines(strings.ReplaceAll(cmd.Example, "\\\n", "")) {
			example(t, strings.TrimSpace(line))
		}
	}
	walk(root)
}

// example: a line of a command's examples is a command with options that there are.
func example(t *testing.T, line string) {
	t.Helper()
	line, _, _ = strings.Cut(line, "#")
	args := strings.Fields(strings.NewReplacer(`"$(vmmigrate lab uri a)"`, "A", `"$(vmmigrate lab uri b)"`, "B").Replace(line))
	if len(args) == 0 || args[0] != "vmmigrate" {
		return // another program's
	}
	cmd, rest, err := newRoot(strings.NewReader(""), io.Discard, io.Discard).Find(args[1:])
	if err != nil {
		t.Errorf("%s: %v", line, err)
		return
	}
	if err := cmd.ParseFlags(rest); err != nil {
		t.Errorf("%s: %v", line, err)
	}
	if err := cmd.ValidateArgs(cmd.Flags().Args()); err != nil {
		t.Errorf("%s: %v", line, err)
	}
}
