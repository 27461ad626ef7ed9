package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// options are what the command line says besides the tiers.
type options struct {
	out      string
	race     bool
	patterns []string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var opt options
	flag.StringVar(&opt.out, "out", "build/test", "folder for the events of each tier and the summary")
	flag.BoolVar(&opt.race, "race", true, "run with the race detector")
	pkg := flag.String("pkg", "./...", "packages to test")
	flag.Parse()
	opt.patterns = []string{*pkg}
	picked, err := pick(flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "tiers:", err)
		os.Exit(2)
	}
	ok, err := run(ctx, opt, picked, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "tiers:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

// run runs the tiers one after the other and prints the report. It reports
// whether something passed and nothing failed.
func run(ctx context.Context, opt options, picked []tier, w io.Writer) (bool, error) {
	if err := os.MkdirAll(opt.out, 0o755); err != nil {
		return false, fmt.Errorf("make the output folder: %w", err)
	}
	all, err := candidates(ctx, opt.patterns)
	if err != nil {
		return false, err
	}
	var results []result
	for _, t := range picked {
		results = append(results, result{t, runTier(ctx, opt, t, packagesOf(t, all), w)})
	}
	line := report(w, results)
	if err := os.WriteFile(filepath.Join(opt.out, "summary.txt"), []byte(line+"\n"), 0o644); err != nil {
		return false, fmt.Errorf("write the summary: %w", err)
	}
	passed, failed := 0, 0
	for _, r := range results {
		passed, failed = passed+r.tally.passed, failed+r.tally.failed
	}
	return passed > 0 && failed == 0, ctx.Err()
}

// runTier runs go test over the packages of one tier and adds up its events.
func runTier(ctx context.Context, opt options, t tier, packages []string, w io.Writer) *tally {
	sum := newTally()
	fmt.Fprintf(w, "==> %s, %s: %d packages\n", t.name, t.about, len(packages))
	if len(packages) == 0 || ctx.Err() != nil {
		return sum
	}
	start := time.Now()
	defer func() { sum.elapsed = time.Since(start) }()
	log, err := os.Create(filepath.Join(opt.out, t.name+".json"))
	if err != nil {
		sum.broken("tiers", err)
		return sum
	}
	defer log.Close()
	show := func(pkg string, ok bool, tests int, elapsed time.Duration) {
		if tests == 0 && ok {
			return
		}
		fmt.Fprintf(w, "%-4s  %-44s %4d tests %7.2fs\n", verdict(ok), short(pkg), tests, elapsed.Seconds())
		sum.blame(w, pkg)
	}
	if err := goTest(ctx, t.args(opt, packages), log, sum, show, w); err != nil && sum.failed == 0 {
		sum.broken("go test", err)
	}
	return sum
}

// grace is how long tests may take to end after an interrupt.
const grace = time.Minute

// goTest runs go with args, copies its events to log and adds them to sum.
func goTest(ctx context.Context, args []string, log io.Writer, sum *tally, show progress, w io.Writer) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	// With the race detector in it a program waits for a second when it ends, and
	// tests start hundreds. Races are still found, and fail the test.
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	// A group of its own, so that an interrupt reaches the tests and not go alone.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	signalAll := func(sig syscall.Signal) error { return syscall.Kill(-cmd.Process.Pid, sig) }
	cmd.Cancel = func() error { return signalAll(syscall.SIGINT) }
	cmd.Stderr = w
	events, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("run go test: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run go test: %w", err)
	}
	ended := make(chan struct{})
	var killer sync.WaitGroup
	killer.Go(func() {
		select {
		case <-ended:
			return
		case <-ctx.Done():
		}
		select {
		case <-ended:
		case <-time.After(grace):
			_ = signalAll(syscall.SIGKILL) // those left did not heed the interrupt
		}
	})
	readErr := sum.read(io.TeeReader(events, log), show, w)
	err = cmd.Wait()
	close(ended)
	killer.Wait()
	if err != nil {
		return errors.Join(readErr, fmt.Errorf("run go test: %w", err))
	}
	return readErr
}

func verdict(ok bool) string {
	if ok {
		return "ok"
	}
	return "FAIL"
}
