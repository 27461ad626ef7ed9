package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// module makes a module with one package and its tests the current folder.
func module(t *testing.T, tests string) options {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":    "module example.com/m\n\ngo 1.26\n",
		"m_test.go": "package m\n\nimport \"testing\"\n\n" + tests,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	return options{out: "out", patterns: []string{"./..."}}
}

// The whole way, with the real go: what runs, what it says, what it leaves.
func TestRun(t *testing.T) {
	cases := []struct {
		name, tests string
		ok          bool
		line        string
		says        string
	}{
		{"pass and skip", "func TestA(t *testing.T) {}\nfunc TestT1B(t *testing.T) { t.Skip(\"needs a moon\") }\n",
			true, "1 passed, 0 failed, 1 skipped", "skipped: T1, 1 tests: needs a moon"},
		{"a failure in a higher tier", "func TestA(t *testing.T) {}\nfunc TestT1B(t *testing.T) { t.Error(\"too dark\") }\n",
			false, "1 passed, 1 failed, 0 skipped", "too dark"},
		{"does not build", "func TestA(t *testing.T) { undefined() }\n",
			false, "0 passed, 1 failed, 0 skipped", "undefined: undefined"},
		{"no second lost at each end", "import \"os\"\n\nfunc TestA(t *testing.T) {\n\tif g := os.Getenv(\"GORACE\"); g != \"atexit_sleep_ms=0 history_size=1\" {\n\t\tt.Fatal(g)\n\t}\n}\n",
			true, "1 passed, 0 failed, 0 skipped", "T0"},
		{"nothing to run", "", false, "0 passed, 1 failed, 0 skipped", "imported and not used"},
	}
	t.Setenv("GORACE", "history_size=1")
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			opt := module(t, c.tests)
			var out strings.Builder
			ok, err := run(context.Background(), opt, tiers()[:2], &out)
			if err != nil || ok != c.ok {
				t.Fatalf("ok %v, error %v; want ok %v\n%s", ok, err, c.ok, out.String())
			}
			if !strings.HasSuffix(out.String(), "\n"+c.line+"\n") || !strings.Contains(out.String(), c.says) {
				t.Errorf("said\n%s\nwant %q, and %q as the last line", out.String(), c.says, c.line)
			}
			left, err := os.ReadFile("out/summary.txt")
			if err != nil || string(left) != c.line+"\n" {
				t.Errorf("left %q, %v", left, err)
			}
		})
	}
}

// An interrupt ends a test that is running, and the test counts as failed.
func TestRunInterruptedInATest(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "running")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	opt := module(t, "import \"os\"\n\nfunc TestA(t *testing.T) {\n\tif err := os.WriteFile(\""+fifo+"\", []byte(\"x\"), 0); err != nil {\n"+
		"\t\tt.Fatal(err)\n\t}\n\t<-t.Context().Done()\n}\n")
	f, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var waiter sync.WaitGroup
	waiter.Go(func() {
		_, _ = f.Read(make([]byte, 1)) // the test runs now, or f was closed
		cancel()
	})
	var out strings.Builder
	ok, err := run(ctx, opt, tiers()[:1], &out)
	_ = f.Close()
	waiter.Wait()
	if ok || !errors.Is(err, context.Canceled) || !strings.Contains(out.String(), "failed: T0 example.com/m TestA\n") {
		t.Errorf("ok %v, error %v; want it cancelled, and the test named:\n%s", ok, err, out.String())
	}
}

// An interrupted run is not a good one, whatever passed before.
func TestRunInterrupted(t *testing.T) {
	opt := module(t, "func TestA(t *testing.T) {}\n")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if ok, err := run(ctx, opt, tiers(), new(strings.Builder)); ok || err == nil {
		t.Errorf("ok %v, error %v; want an error", ok, err)
	}
}
