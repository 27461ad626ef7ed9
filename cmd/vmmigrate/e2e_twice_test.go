package main

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/libvirthost"
)

// sentry asks both hosts all the time who runs the guest.
type sentry struct {
	x     *bench
	stop  context.CancelFunc
	wg    sync.WaitGroup
	conns map[string]migrate.Host
	looks int
	twice []string
}

// guard starts a sentry; its end is the test's, which fails if two hosts ever ran the guest at once.
func (x *bench) guard() {
	ctx, stop := context.WithCancel(context.Background())
	s := &sentry{x: x, stop: stop, conns: map[string]migrate.Host{}}
	s.wg.Go(func() { s.watch(ctx) })
	x.t.Cleanup(func() {
		stop()
		s.wg.Wait()
		for _, c := range s.conns {
			_ = c.Close()
		}
		if len(s.twice) > 0 {
			x.t.Errorf("%d of %d looks saw the guest run on both hosts, first: %s", len(s.twice), s.looks, s.twice[0])
		}
		if s.looks == 0 {
			x.t.Error("nobody looked at who runs the guest")
		}
	})
}

func (s *sentry) watch(ctx context.Context) {
	tick := time.NewTicker(15 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// A guest that moves from a to b runs on a, then on b. Seen on a before and after it was seen on b, it ran twice.
		first, ok1 := s.runs(ctx, "a")
		second, ok2 := s.runs(ctx, "b")
		if !ok1 || !ok2 {
			continue
		}
		s.looks++
		if first == "" || second == "" {
			continue
		}
		if again, ok := s.runs(ctx, "a"); ok && again != "" {
			s.twice = append(s.twice, "a: "+first+", b: "+second+", a: "+again)
		}
	}
}

// runs says how a host runs the guest, empty if it does not; not ok if the host does not answer.
func (s *sentry) runs(ctx context.Context, host string) (how string, ok bool) {
	ctx, stop := context.WithTimeout(ctx, 10*time.Second)
	defer stop()
	if s.x.bare != nil {
		return s.bareRuns(ctx, host)
	}
	c := s.conns[host]
	if c == nil {
		h, err := libvirthost.Open(ctx, s.x.hosts[host].URI(), libvirthost.Options{})
		if err != nil {
			return "", false
		}
		c, s.conns[host] = h, h
	}
	st, err := c.State(ctx, guestName)
	switch {
	case errors.Is(err, migrate.ErrNoDomain):
		return "", true
	case err != nil: // its libvirtd was restarted, perhaps
		_ = c.Close()
		delete(s.conns, host)
		return "", false
	case strings.HasPrefix(st.Reason, "running/"):
		return st.Reason, true
	}
	return "", true
}

// The sentry has to be able to tell: it is fed two hosts that both run a guest of that name.
func TestT4SentrySeesTwo(t *testing.T) {
	x := newBench(t)
	host := other(x.where())
	xml := strings.ReplaceAll(`<domain type='qemu'><name>NAME</name><memory unit='MiB'>16</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type></os><devices><memballoon model='none'/></devices></domain>`, "NAME", guestName)
	x.virsh(host, "create", x.file(xml))
	defer x.virsh(host, "destroy", guestName)
	s := &sentry{x: x, conns: map[string]migrate.Host{}}
	for _, h := range []string{"a", "b"} {
		if how, ok := s.runs(t.Context(), h); !ok || how == "" {
			t.Errorf("%s: runs %q, answers %t", h, how, ok)
		}
		defer func() { _ = s.conns[h].Close() }()
	}
}
