package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// proc is a running vmmigrate, whose standard error is read line by line. Its goroutine ends with the process's
// standard error; the test's end waits for it.
type proc struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  bytes.Buffer
	done chan struct{} // closed when standard error has ended
	once sync.Once

	mu    sync.Mutex
	lines []string
	more  chan struct{} // closed and replaced with every line
}

// start starts a command; env is added to its environment.
func (x *bench) start(env []string, args ...string) *proc {
	x.t.Helper()
	p := &proc{t: x.t, cmd: exec.Command("vmmigrate", args...), done: make(chan struct{}), more: make(chan struct{})}
	p.cmd.Env = append(x.env[:len(x.env):len(x.env)], env...)
	p.cmd.Stdout = &p.out
	r, w, err := os.Pipe()
	if err != nil {
		x.t.Fatal(err)
	}
	p.cmd.Stderr = w
	err = p.cmd.Start()
	w.Close()
	if err != nil {
		r.Close()
		x.t.Fatal(err)
	}
	go p.read(r)
	x.t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it has ended, unless the test failed
		p.reap()
	})
	return p
}

// read takes standard error line by line.
func (p *proc) read(r *os.File) {
	defer close(p.done)
	defer r.Close()
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, lineLimit)
	for sc.Scan() {
		p.mu.Lock()
		p.lines = append(p.lines, sc.Text())
		close(p.more)
		p.more = make(chan struct{})
		p.mu.Unlock()
	}
}

func (p *proc) reap() {
	p.once.Do(func() {
		_ = p.cmd.Wait() // the exit code is in ProcessState
		<-p.done
	})
}

// wait returns the exit code; -1 for one that was killed.
func (p *proc) wait() int {
	p.t.Helper()
	return p.waitFor(patience)
}

// waitFor is wait with a time of its own.
func (p *proc) waitFor(d time.Duration) int {
	p.t.Helper()
	end := time.AfterFunc(d, func() { _ = p.cmd.Process.Kill() })
	p.reap()
	if !end.Stop() {
		p.t.Fatalf("%s did not end within %v\n%s", p, d, p.stderr())
	}
	return p.cmd.ProcessState.ExitCode()
}

// ends waits and fails unless the exit code is as wanted.
func (p *proc) ends(want int) {
	p.t.Helper()
	if got := p.wait(); got != want {
		p.t.Fatalf("%s: exit code %d, want %d\n%s%s", p, got, want, p.stdout(), p.stderr())
	}
}

func (p *proc) String() string { return "vmmigrate " + strings.Join(p.cmd.Args[1:], " ") }

// stdout is what it printed; only after wait.
func (p *proc) stdout() string { return p.out.String() }

// stderr is what it said so far.
func (p *proc) stderr() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines, "\n")
}

// says fails unless standard error matches.
func (p *proc) says(pattern string) {
	p.t.Helper()
	if !regexp.MustCompile(pattern).MatchString(p.stderr()) {
		p.t.Errorf("%s does not say %q:\n%s", p, pattern, p.stderr())
	}
}

// until waits for a line of progress that satisfies ok. It needs --progress json.
func (p *proc) until(what string, ok func(migrate.Progress) bool) (found migrate.Progress) {
	p.t.Helper()
	p.untilLine(what, func(text string) bool {
		line, isProgress := progressOf(p.t, text)
		found = line
		return isProgress && ok(line)
	})
	return found
}

// line waits for a line with that text in it.
func (p *proc) line(part string) {
	p.t.Helper()
	p.untilLine("a line with "+part, func(text string) bool { return strings.Contains(text, part) })
}

// untilLine waits for a line of standard error that satisfies ok.
func (p *proc) untilLine(what string, ok func(string) bool) {
	p.t.Helper()
	end := time.NewTimer(patience)
	defer end.Stop()
	for i := 0; ; {
		p.mu.Lock()
		lines, more := p.lines, p.more
		p.mu.Unlock()
		for ; i < len(lines); i++ {
			if ok(lines[i]) {
				return
			}
		}
		select {
		case <-more:
		case <-p.done:
			p.mu.Lock()
			over := i == len(p.lines)
			p.mu.Unlock()
			if over {
				p.t.Fatalf("%s ended before %s\n%s", p, what, p.stderr())
			}
		case <-end.C:
			p.t.Fatalf("%s: waited %v in vain for %s\n%s", p, patience, what, p.stderr())
		}
	}
}

// progress is all lines of progress so far.
func (p *proc) progress() []migrate.Progress {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []migrate.Progress
	for _, l := range p.lines {
		if line, ok := progressOf(p.t, l); ok {
			all = append(all, line)
		}
	}
	return all
}

// progressOf reads a line of standard error, if it is one of progress.
func progressOf(t *testing.T, text string) (p migrate.Progress, ok bool) {
	t.Helper()
	if !strings.HasPrefix(text, "{") {
		return p, false
	}
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		t.Fatalf("a line of progress cannot be read: %v: %s", err, text)
	}
	return p, true
}

// report is what -o json printed.
func (p *proc) report() migrate.Report {
	p.t.Helper()
	var r migrate.Report
	if err := json.Unmarshal(p.out.Bytes(), &r); err != nil {
		p.t.Fatalf("%s printed no report: %v\n%s", p, err, p.stdout())
	}
	if r.Schema != migrate.ReportSchema {
		p.t.Fatalf("%s printed no report: schema %q", p, r.Schema)
	}
	return r
}

// parked waits for a coordinator that p started to stand at a point, and returns the name of the migration.
func (p *proc) parked(x *bench, marker string) string {
	p.t.Helper()
	var id []byte
	defer func() {
		if p.t.Failed() {
			p.t.Logf("%s said:\n%s", p, p.stderr())
		}
	}()
	x.until("the coordinator parks", func() bool {
		select {
		case <-p.done:
			p.t.Fatalf("%s ended before it parked\n%s", p, p.stderr())
		default:
		}
		var err error
		id, err = os.ReadFile(marker)
		return err == nil && len(id) > 0
	})
	return strings.TrimSpace(string(id))
}

var pidIn = regexp.MustCompile(` pid (\d+)$`)

// coordinator is the process that drives a migration, as the journal tells, and fails unless it is a coordinator of this
// test.
func (x *bench) coordinator(name string) int {
	x.t.Helper()
	var s struct {
		Entry migrate.Entry `json:"entry"`
	}
	_, text := x.run("status", name, "-o", "json")
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		x.t.Fatalf("status %s: %v\n%s", name, err, text)
	}
	m := pidIn.FindStringSubmatch(s.Entry.Coordinator)
	if m == nil {
		x.t.Fatalf("the journal does not tell the coordinator's process: %q", s.Entry.Coordinator)
	}
	pid, err := strconv.Atoi(m[1])
	if err != nil {
		x.t.Fatal(err)
	}
	cmdline, err := os.ReadFile(filepath.Join("/proc", m[1], "cmdline"))
	if err != nil || !bytes.Contains(cmdline, []byte("\x00coordinate\x00")) {
		x.t.Fatalf("process %d is no coordinator: %q, %v", pid, cmdline, err)
	}
	return pid
}

// kill ends a process as a power failure of its own would.
func (x *bench) kill(pid int) {
	x.t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		x.t.Fatalf("kill %d: %v", pid, err)
	}
}
