package journal

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vmmigrate/vmmigrate/migrate"
)

const childDir = "VMMIGRATE_TEST_JOURNAL"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		if os.Getenv(childPark) != "" {
			migrateAndPark(dir)
			return
		}
		writeForever(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

// writeForever is the child: it writes records and says which of them are on the disk, until it is killed.
func writeForever(dir string) {
	ctx := context.Background()
	j, err := Open(ctx, dir)
	if err != nil {
		fmt.Println("error", err)
		return
	}
	l, err := j.Begin(ctx, entry(os.Getenv(childDir+"_ID")))
	if err != nil {
		fmt.Println("error", err)
		return
	}
	for i := 1; ; i++ {
		r := record(migrate.PhaseCopying, migrate.OwnerSource, migrate.StepCopy)
		r.Note = strconv.Itoa(i)
		if err := l.Write(ctx, r); err != nil {
			fmt.Println("error", err)
			return
		}
		if _, err := fmt.Println(i); err != nil {
			return
		}
		if err := l.Progress(ctx, migrate.Progress{Phase: migrate.PhaseCopying, Owner: migrate.OwnerSource}); err != nil {
			fmt.Println("error", err)
			return
		}
	}
}

// TestKilled kills a coordinator at random points. The journal must be readable, hold every record that was acknowledged
// and at most one more, show the coordinator as dead, and let another take over.
func TestKilled(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("TEST_SEED"); s != "" {
		v, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = v
	}
	t.Logf("TEST_SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 2))
	dir := t.TempDir()
	for round := range 6 {
		id := fmt.Sprintf("m-%d", round)
		acked := killAfter(t, dir, id, 1+rng.IntN(40), time.Duration(rng.IntN(500))*time.Microsecond)
		j := open(t, dir)
		s, err := j.Load(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		last, err := strconv.Atoi(s.Last.Note)
		if err != nil || last < acked || last > acked+1 {
			t.Errorf("%s: last record %q after %d were acknowledged", id, s.Last.Note, acked)
		}
		steps, err := j.Steps(t.Context(), id)
		if err != nil || len(steps) != last+1 {
			t.Errorf("%s: %d steps, want %d: %v", id, len(steps), last+1, err)
		}
		if s.Alive {
			t.Errorf("%s: dead and shown alive", id)
		}
		_, l, err := j.Attach(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
	}
}

// killAfter runs the child until it acknowledged n records and a little more, and returns the last it acknowledged.
func killAfter(t *testing.T, dir, id string, n int, more time.Duration) int {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir, childDir+"_ID="+id)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	acked := 0
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "error") {
			t.Error(lines.Text())
			break
		}
		if acked, err = strconv.Atoi(lines.Text()); err != nil {
			t.Fatal(err)
		}
		if acked == n {
			time.AfterFunc(more, func() { cmd.Process.Kill() })
		}
	}
	cmd.Wait() // it was killed
	return acked
}

func FuzzDecode(f *testing.F) {
	f.Add(`{"phase":"copying","owner":"source","step":"copy","at":"2026-11-22T01:02:03Z"}`)
	f.Add(`{"outcome":"completed","owner":"destination","eta_ms":{"low":1}}`)
	f.Add(`{"phase":3}`)
	f.Fuzz(func(t *testing.T, text string) {
		var r migrate.Record
		if decode(text, &r, "record") == nil {
			if r.Owner > migrate.OwnerUnknown || r.Phase > migrate.PhaseEnded || r.Step > migrate.StepWatch {
				t.Errorf("read %q as %+v", text, r)
			}
		}
		var p migrate.Progress
		var e migrate.Entry
		var rep migrate.Report
		_, _, _ = decode(text, &p, ""), decode(text, &e, ""), decode(text, &rep, "")
	})
}
