package qmp_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// pair is a source and a destination that is ready to listen.
type pair struct {
	src, dst         *qemuProcess
	source, dest     *qmp.Client
	srcEvents, dstEv *qmp.Subscription
}

// newPair starts two equal machines and switches the capabilities on at both.
func newPair(ctx context.Context, t *testing.T, caps qmp.Capabilities, args ...string) *pair {
	t.Helper()
	p := &pair{src: startQEMU(t, args...)}
	p.dst = startQEMU(t, append([]string{"-incoming", "defer"}, args...)...)
	p.source, p.dest = p.src.client(), p.dst.client()
	caps[qmp.CapEvents], caps[qmp.CapReturnPath] = true, true
	for _, c := range []*qmp.Client{p.source, p.dest} {
		if err := qmp.SetMigrateCapabilities(ctx, c, caps); err != nil {
			t.Fatal(err)
		}
	}
	p.srcEvents, p.dstEv = subscribe(t, p.source, 0), subscribe(t, p.dest, 0)
	return p
}

// listen lets the destination listen at a port of its choice and gives the URI.
func (p *pair) listen(ctx context.Context, t *testing.T) string {
	t.Helper()
	if err := qmp.MigrateIncoming(ctx, p.dest, qmp.MigrateIncomingArgs{URI: "tcp:127.0.0.1:0", ExitOnError: new(false)}); err != nil {
		t.Fatal(err)
	}
	info, err := qmp.QueryMigrate(ctx, p.dest)
	if err != nil || len(info.SocketAddress) != 1 {
		t.Fatalf("destination listens at %+v, %v", info.SocketAddress, err)
	}
	return info.SocketAddress[0].String()
}

// story gives the events up to the end of the migration in words.
func story(ctx context.Context, t *testing.T, s *qmp.Subscription, last func(qmp.Event) bool) []string {
	t.Helper()
	var words []string
	_, err := s.Wait(ctx, func(e qmp.Event) bool {
		if status, ok := e.MigrationStatus(); ok {
			words = append(words, string(status))
		} else if e.Name != qmp.EventMigrationPass {
			words = append(words, e.Name)
		}
		return last(e)
	})
	if err != nil {
		t.Fatalf("%v after %v", err, words)
	}
	return words
}

// passes reports the status of a migration.
func passes(want qmp.MigrationStatus) func(qmp.Event) bool {
	return func(e qmp.Event) bool {
		s, ok := e.MigrationStatus()
		return ok && s == want
	}
}

// A paused machine arrives paused; nothing ever runs.
func TestT3MigratePaused(t *testing.T) {
	ctx := testContext(t)
	p := newPair(ctx, t, qmp.Capabilities{})
	uri := p.listen(ctx, t)
	if err := qmp.Migrate(ctx, p.source, qmp.MigrateArgs{URI: uri}); err != nil {
		t.Fatal(err)
	}
	checkStory(t, "source", story(ctx, t, p.srcEvents, ended), "setup active device completed")
	checkStory(t, "destination", story(ctx, t, p.dstEv, ended), "setup active completed")
	info, err := qmp.QueryMigrate(ctx, p.source)
	check(t, "source", err == nil && info.Status == qmp.MigrationCompleted && info.RAM.Total >= 64<<20 && info.RAM.PageSize == 4096 &&
		info.RAM.PrecopyBytes != nil && info.RAM.Transferred > 0 && info.Downtime != nil && info.ExpectedDowntime == nil && info.ErrorDesc == nil, info, err)
	info, err = qmp.QueryMigrate(ctx, p.dest)
	check(t, "destination", err == nil && info.Status == qmp.MigrationCompleted && info.RAM == nil, info, err)
	st := left(ctx, t, p.source, qmp.StateFinishMigrate)
	check(t, "source", st.Status == qmp.StatePostMigrate && !st.Running, st, nil)
	st = left(ctx, t, p.dest, qmp.StateInMigrate)
	check(t, "destination", (st.Status == qmp.StatePaused || st.Status == qmp.StatePreLaunch) && !st.Running, st, nil)
}

// checkStory compares the events that came with those expected.
func checkStory(t *testing.T, who string, got []string, want string) {
	t.Helper()
	if s := strings.Join(got, " "); s != want {
		t.Errorf("%s: %s; want %s", who, s, want)
	}
}

// A running machine stops before the switch and runs at the destination when it is
// told to, by channels rather than a URI.
func TestT3MigrateRunning(t *testing.T) {
	ctx := testContext(t)
	p := newPair(ctx, t, qmp.Capabilities{qmp.CapPauseBeforeSwitchover: true})
	addr := qmp.UnixAddress(filepath.Join(p.dst.dir, "mig.sock"))
	channels := []qmp.MigrationChannel{qmp.MainChannel(qmp.SocketTransport(addr))}
	if err := qmp.MigrateIncoming(ctx, p.dest, qmp.MigrateIncomingArgs{Channels: channels, ExitOnError: new(false)}); err != nil {
		t.Fatal(err)
	}
	if err := qmp.Cont(ctx, p.source); err != nil {
		t.Fatal(err)
	}
	if err := qmp.Migrate(ctx, p.source, qmp.MigrateArgs{Channels: channels}); err != nil {
		t.Fatal(err)
	}
	checkStory(t, "source", story(ctx, t, p.srcEvents, passes(qmp.MigrationPreSwitchover)), "RESUME setup active STOP pre-switchover")
	if err := qmp.MigrateContinue(ctx, p.source, qmp.MigrationPreSwitchover); err != nil {
		t.Fatal(err)
	}
	checkStory(t, "source", story(ctx, t, p.srcEvents, ended), "device completed")
	checkStory(t, "destination", story(ctx, t, p.dstEv, ended), "setup active completed")
	if err := qmp.Cont(ctx, p.dest); err != nil {
		t.Fatal(err)
	}
	checkStory(t, "destination", story(ctx, t, p.dstEv, func(qmp.Event) bool { return true }), "RESUME")
}

// A cancelled migration leaves the guest running at the source, and the
// destination says why it failed instead of ending.
func TestT3MigrateCancel(t *testing.T) {
	ctx := testContext(t)
	p := newPair(ctx, t, qmp.Capabilities{qmp.CapPauseBeforeSwitchover: true})
	uri := p.listen(ctx, t)
	if err := qmp.Cont(ctx, p.source); err != nil {
		t.Fatal(err)
	}
	if err := qmp.Migrate(ctx, p.source, qmp.MigrateArgs{URI: uri}); err != nil {
		t.Fatal(err)
	}
	story(ctx, t, p.srcEvents, passes(qmp.MigrationPreSwitchover))
	if err := qmp.MigrateCancel(ctx, p.source); err != nil {
		t.Fatal(err)
	}
	last := story(ctx, t, p.srcEvents, func(e qmp.Event) bool { return e.Name == qmp.EventResume })
	if last[0] != "cancelling" {
		t.Errorf("source: %v", last)
	}
	story(ctx, t, p.dstEv, passes(qmp.MigrationFailed))
	info, err := qmp.QueryMigrate(ctx, p.dest)
	check(t, "destination", err == nil && info.Status == qmp.MigrationFailed && info.ErrorDesc != nil, info, err)
}

// left waits until a guest is in another state and gives that. QEMU has no event
// for a guest that stays paused, and reports completed a little before the state
// of either side is final.
func left(ctx context.Context, t *testing.T, c *qmp.Client, state qmp.RunState) qmp.StatusInfo {
	t.Helper()
	for {
		st, err := qmp.QueryStatus(ctx, c)
		if err != nil {
			t.Fatal(err)
		}
		if st.Status != state {
			return st
		}
	}
}

// Post-copy is paused by force and recovered over another connection, all out of
// band.
func TestT3PostcopyRecover(t *testing.T) {
	need.UFFD(t)
	ctx := testContext(t)
	p := newPair(ctx, t, qmp.Capabilities{qmp.CapPostcopyRAM: true})
	uri := p.listen(ctx, t)
	// Nothing moves in the background, so that post-copy cannot end by itself.
	slow := qmp.MigrationParameters{MaxBandwidth: new(uint64(4 << 10)), MaxPostcopyBandwidth: new(uint64(4 << 10))}
	if err := qmp.SetMigrateParameters(ctx, p.source, slow); err != nil {
		t.Fatal(err)
	}
	if err := qmp.Cont(ctx, p.source); err != nil {
		t.Fatal(err)
	}
	if err := qmp.Migrate(ctx, p.source, qmp.MigrateArgs{URI: uri}); err != nil {
		t.Fatal(err)
	}
	if err := qmp.MigrateStartPostcopy(ctx, p.source); err != nil {
		t.Fatal(err)
	}
	story(ctx, t, p.srcEvents, passes(qmp.MigrationPostcopyActive))
	// A post-copy that loses its connection before the destination has taken the
	// guest over fails there and cannot be recovered.
	left(ctx, t, p.dest, qmp.StateInMigrate)
	if err := qmp.MigratePause(ctx, p.source); err != nil {
		t.Fatal(err)
	}
	story(ctx, t, p.srcEvents, passes(qmp.MigrationPostcopyPaused))
	story(ctx, t, p.dstEv, passes(qmp.MigrationPostcopyPaused))
	again := fmt.Sprintf("unix:%s", filepath.Join(p.dst.dir, "again.sock"))
	if err := qmp.MigrateRecover(ctx, p.dest, again); err != nil {
		t.Fatal(err)
	}
	fast := qmp.MigrationParameters{MaxBandwidth: new(uint64(1 << 30)), MaxPostcopyBandwidth: new(uint64(0))}
	if err := qmp.SetMigrateParameters(ctx, p.source, fast); err != nil {
		t.Fatal(err)
	}
	if err := qmp.Migrate(ctx, p.source, qmp.MigrateArgs{URI: again, Resume: true}); err != nil {
		t.Fatal(err)
	}
	checkStory(t, "source", story(ctx, t, p.srcEvents, ended), "postcopy-recover-setup postcopy-recover postcopy-active completed")
	story(ctx, t, p.dstEv, passes(qmp.MigrationCompleted))
}
