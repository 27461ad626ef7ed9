package agent

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent/internal/line"
)

// quiet is an agent that is never asked.
type quiet struct{ Agent }

func (quiet) Close() error { return nil }

// Both ends refuse another protocol, and both name both versions.
func TestVersionsAreNamed(t *testing.T) {
	named := func(side string, err error) {
		t.Helper()
		if !errors.Is(err, ErrVersion) || migrate.FixOf(err) == "" {
			t.Fatalf("%s: %v", side, err)
		}
		for _, want := range []string{"v1.0 (protocol 3)", "v9.9 (protocol 9)"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v does not name %s", side, err, want)
			}
		}
	}
	ours, theirs := net.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- ServeConn(context.Background(), theirs, quiet{}, Options{Version: "v1.0"}) }()
	if _, err := line.Read(ours); err != nil {
		t.Fatal(err)
	}
	if err := line.Write(ours, map[string]any{"vmmigrate": "coordinator", "protocol": 9, "version": "v9.9", "novelty": 1}); err != nil {
		t.Fatal(err)
	}
	named("agent", <-ended)

	ours, theirs = net.Pipe()
	heard := make(chan string, 1)
	go func() {
		_ = line.Write(theirs, map[string]any{"vmmigrate": "agent", "protocol": 9, "version": "v9.9", "novelty": 1})
		b, _ := line.Read(theirs)
		heard <- string(b)
	}()
	_, err := NewClient(t.Context(), ours, "v1.0")
	named("coordinator", err)
	if got := <-heard; !strings.Contains(got, `"v1.0"`) {
		t.Errorf("the agent does not hear of our version: %s", got)
	}
}

// Who is no agent is not taken for one, and a greeting that says more than we know is refused.
func TestGreetingIsStrict(t *testing.T) {
	for _, b := range []string{``, `hello`, `{}`, `{"vmmigrate":"coordinator","protocol":3,"version":"v"}`,
		`{"vmmigrate":"agent","protocol":3,"version":"v","novelty":1}`} {
		if _, err := parseGreeting([]byte(b), roleAgent, "v"); err == nil || errors.Is(err, ErrVersion) {
			t.Errorf("%s: %v", b, err)
		}
	}
	if g, err := parseGreeting([]byte(`{"vmmigrate":"agent","protocol":3,"version":"v"}`), roleAgent, "v"); err != nil || g.Version != "v" {
		t.Errorf("%+v, %v", g, err)
	}
}

// A silent peer is given up when the context ends.
func TestGreetingEnds(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := NewClient(ctx, ours, "v"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	ours, theirs = net.Pipe()
	_ = ours.Close()
	if err := ServeConn(t.Context(), theirs, quiet{}, Options{}); err == nil {
		t.Error("an agent without coordinator")
	}
	ours, theirs = net.Pipe()
	_ = theirs.Close()
	if _, err := NewClient(t.Context(), ours, "v"); !errors.Is(err, migrate.ErrLinkLost) {
		t.Errorf("nobody there: %v", err)
	}
}

// What a login shell says is skipped, up to a bound.
func TestNoise(t *testing.T) {
	for lines, want := range map[int]bool{0: true, 5: true, noise: true, noise + 1: false} {
		ours, theirs := net.Pipe()
		go func() {
			for range lines {
				_, _ = theirs.Write([]byte("Welcome!\n"))
			}
			_ = line.Write(theirs, greeting{Role: roleAgent, Protocol: Protocol, Version: "v"})
			_, _ = line.Read(theirs)
			_ = theirs.Close()
		}()
		_, err := greetAsCoordinator(t.Context(), ours, "v", noise)
		if (err == nil) != want {
			t.Errorf("after %d lines: %v", lines, err)
		}
		_ = ours.Close()
	}
}

func FuzzGreeting(f *testing.F) {
	f.Add([]byte(`{"vmmigrate":"agent","protocol":3,"version":"v","refused":"no","fix":"y"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := parseGreeting(b, roleAgent, "v")
		if err == nil && (g.Protocol != Protocol || g.Role != roleAgent) {
			t.Fatalf("%q is taken as %+v", b, g)
		}
	})
}
