package datalink

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate/agent/internal/line"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair is the configuration of both ends, encrypted or not.
func pair(t *testing.T, encrypted bool) (src, dst Config) {
	t.Helper()
	src = Config{Migration: "m1", Token: "secret"}
	dst = src
	if encrypted {
		a, b := certificate(t), certificate(t)
		src.TLS, dst.TLS = pin(t, a, b), pin(t, b, a)
	}
	return src, dst
}

func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	c, err := NewCertificate()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func pin(t *testing.T, own, peer tls.Certificate) *tls.Config {
	t.Helper()
	cfg, err := PinTLS(own, peer.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func accept(t *testing.T, cfg Config) *Acceptor {
	t.Helper()
	lis, err := Listen(t.Context(), "127.0.0.1:0", [2]int{})
	if err != nil {
		t.Fatal(err)
	}
	a, err := NewAcceptor(lis, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	return a
}

func keep(t *testing.T, cfg KeepConfig, serve func(context.Context, *Conn)) *Keeper {
	t.Helper()
	k, err := Keep(cfg, serve)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return k
}

// echo gives back what comes, until the connection ends.
func echo(_ context.Context, c *Conn) { _, _ = io.Copy(c, c) }

// say sends a word over a connection that echoes and reads it back.
func say(t *testing.T, c net.Conn, word string) {
	t.Helper()
	got := make([]byte, len(word))
	if _, err := io.WriteString(c, word); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, got); err != nil || string(got) != word {
		t.Fatalf("%q came back as %q, %v", word, got, err)
	}
}

func TestConnectionsByRole(t *testing.T) {
	for name, encrypted := range map[string]bool{"tls": true, "plain": false} {
		t.Run(name, func(t *testing.T) {
			src, dst := pair(t, encrypted)
			a := accept(t, dst)
			k := keep(t, KeepConfig{Config: src, Addr: a.Addr().String(), Bulk: 3, Demand: 2, Stream: true}, echo)
			if err := k.Ready(t.Context()); err != nil {
				t.Fatal(err)
			}
			seen := map[slot]bool{}
			for _, role := range []Role{Stream, Bulk, Bulk, Bulk, Demand, Demand} {
				c, err := a.Next(t.Context(), role)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				if c.Role != role || seen[slot{role, c.Index}] {
					t.Errorf("asked for %s, got %s %d, a second time: %t", role, c.Role, c.Index, seen[slot{role, c.Index}])
				}
				seen[slot{role, c.Index}] = true
				say(t, c, string(role))
				if own := ownThread(c); own != (role == Demand) {
					t.Errorf("%s waits in threads of its own: %t", role, own)
				}
			}
			if up, err := k.State(); up != 5 || err != nil {
				t.Errorf("%d up, %v", up, err)
			}
		})
	}
}

// ownThread is whether a connection waits in the threads that use it.
func ownThread(c net.Conn) bool {
	for {
		switch b := c.(type) {
		case *sys.ThreadConn:
			return true
		case interface{ Below() net.Conn }:
			c = b.Below()
		case interface{ NetConn() net.Conn }:
			c = b.NetConn()
		default:
			return false
		}
	}
}

// Connections that are made when they are needed come with their number, and go with the Keeper.
func TestDialled(t *testing.T) {
	src, dst := pair(t, true)
	a := accept(t, dst)
	k := keep(t, KeepConfig{Config: src, Addr: a.Addr().String()}, echo)
	for _, index := range []int{MaxMirrors - 1, 0} {
		near, err := k.Dial(t.Context(), Mirror, index)
		if err != nil {
			t.Fatal(err)
		}
		go echo(t.Context(), near)
		far, err := a.Next(t.Context(), Mirror)
		if err != nil || far.Index != index {
			t.Fatalf("connection %+v, %v, want number %d", far, err, index)
		}
		defer far.Close()
		say(t, far, "written")
		if index > 0 {
			if err := near.Close(); err != nil {
				t.Error(err)
			}
			continue
		}
		k.Close()
		if _, err := far.Read(make([]byte, 1)); err == nil {
			t.Error("it outlives its Keeper")
		}
	}
	if _, err := k.Dial(t.Context(), Mirror, 0); err == nil {
		t.Error("a closed Keeper dials")
	}
	if _, err := k.Dial(t.Context(), Mirror, MaxMirrors); err == nil {
		t.Error("there is one too many")
	}
}

// After a cut each connection but the stream comes anew, by itself.
func TestRedial(t *testing.T) {
	src, dst := pair(t, false)
	a := accept(t, dst)
	keep(t, KeepConfig{Config: src, Addr: a.Addr().String(), Bulk: 1, Stream: true}, echo)
	for range 3 {
		for _, role := range []Role{Bulk, Demand} {
			c, err := a.Next(t.Context(), role)
			if err != nil {
				t.Fatal(err)
			}
			say(t, c, "again")
			_ = c.Close()
		}
	}
	c, err := a.Next(t.Context(), Stream)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	again, err := a.Next(t.Context(), Bulk) // later than the stream's would be, which has no pause before it
	if err != nil {
		t.Fatal(err)
	}
	_ = again.Close()
	if c, _, _ := a.take(Stream); c != nil {
		t.Error("the stream was dialled a second time")
	}
}

// A connection that comes anew supersedes the one whose end nobody noticed.
func TestSuperseded(t *testing.T) {
	src, dst := pair(t, false)
	a := accept(t, dst)
	dial := func() *Conn {
		raw, err := net.Dial("tcp", a.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c, err := introduce(t.Context(), raw, src, slot{Bulk, 2})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	dial()
	first, err := a.Next(t.Context(), Bulk)
	if err != nil {
		t.Fatal(err)
	}
	dial()
	if _, err := first.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the old connection: %v, want closed", err)
	}
	second, err := a.Next(t.Context(), Bulk)
	if err != nil {
		t.Fatal(err)
	}
	_ = second.Close()
	if len(a.live) != 0 {
		t.Errorf("%d connections are still known", len(a.live))
	}
}

func TestRefused(t *testing.T) {
	src, dst := pair(t, true)
	plain, _ := pair(t, false)
	stranger, _ := pair(t, true)
	for name, change := range map[string]func(*Config){
		"token":       func(c *Config) { c.Token = "Secret" },
		"migration":   func(c *Config) { c.Migration = "m2" },
		"certificate": func(c *Config) { c.TLS = stranger.TLS },
		"our own certificate is another": func(c *Config) {
			c.TLS = c.TLS.Clone()
			c.TLS.Certificates = stranger.TLS.Certificates
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := accept(t, dst)
			cfg := src
			change(&cfg)
			k := keep(t, KeepConfig{Config: cfg, Addr: a.Addr().String()}, echo)
			if err := k.Ready(t.Context()); !errors.Is(err, ErrRefused) {
				t.Errorf("%v, want refused", err)
			}
			if strings.Contains(refusal(k), "secret") {
				t.Errorf("the reason tells a secret: %s", refusal(k))
			}
			if c, _, _ := a.take(Demand); c != nil {
				t.Error("the connection was let in")
			}
		})
	}
	for name, ends := range map[string][2]Config{"source does not encrypt": {plain, dst}, "destination does not encrypt": {src, plain}} {
		t.Run(name, func(t *testing.T) {
			k := keep(t, KeepConfig{Config: ends[0], Addr: accept(t, ends[1]).Addr().String()}, echo)
			if err := k.Ready(t.Context()); !errors.Is(err, ErrRefused) {
				t.Errorf("%v, want refused", err)
			}
		})
	}
}

func refusal(k *Keeper) string {
	if _, err := k.State(); err != nil {
		return err.Error()
	}
	return ""
}

func TestVersionsAreNamed(t *testing.T) {
	_, dst := pair(t, false)
	a := accept(t, dst)
	raw, err := net.Dial("tcp", a.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if _, err := io.WriteString(raw, `{"version":7,"novelty":true}`+"\n"); err != nil {
		t.Fatal(err)
	}
	b, err := line.Read(raw)
	if err != nil || !strings.Contains(string(b), "version 7") || !strings.Contains(string(b), "this one version 1") {
		t.Errorf("answer %s, %v", b, err)
	}
	if err := parseLine([]byte(`{"version":9,"refused":""}`), &answer{}); err == nil || !strings.Contains(err.Error(), "version 9") {
		t.Errorf("an answer of another version: %v", err)
	}
}

func TestPrefaceIsStrict(t *testing.T) {
	good := `{"version":1,"migration":"m","token":"t","role":"bulk","index":3}`
	if p, err := parsePreface([]byte(good)); err != nil || p != (preface{1, "m", "t", Bulk, 3}) {
		t.Fatalf("%+v, %v", p, err)
	}
	for _, bad := range []string{
		``, `{}`, `null`, good + good, strings.Replace(good, `}`, `,"more":1}`, 1), strings.Replace(good, "bulk", "", 1),
		strings.Replace(good, "bulk", "nosy", 1), strings.Replace(good, "3", "-1", 1), strings.Replace(good, "3", "64", 1),
		strings.Replace(good, "bulk", "stream", 1), "GET / HTTP/1.1",
	} {
		if p, err := parsePreface([]byte(bad)); err == nil {
			t.Errorf("%s is taken as %+v", bad, p)
		}
	}
	for _, c := range []Config{{}, {Migration: "m"}, {Token: "t"}, {Migration: strings.Repeat("m", 201), Token: "t"}} {
		if _, err := NewAcceptor(nil, c); err == nil {
			t.Errorf("%+v is taken", c)
		}
		if _, err := Keep(KeepConfig{Config: c}, echo); err == nil {
			t.Errorf("%+v is taken", c)
		}
	}
}

func FuzzPreface(f *testing.F) {
	for _, s := range []string{`{"version":1,"migration":"m","token":"t","role":"bulk","index":3}`, `{"version":2}`, `{"version":1,"role":"stream"}`,
		`{"version":1,"migration":"m","token":"t","role":"mirror","index":255}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		p, err := parsePreface(in)
		if err != nil {
			return
		}
		if p.Index < 0 || p.Index >= p.Role.most() || p.Version != Version {
			t.Fatalf("%q is taken as %+v", in, p)
		}
		var out bytes.Buffer
		if line.Write(&out, p) != nil {
			return // its words are too long for us to write
		}
		back, err := line.Read(&out)
		if err != nil {
			t.Fatal(err)
		}
		if q, err := parsePreface(back); err != nil || q != p {
			t.Fatalf("%+v came back as %+v, %v", p, q, err)
		}
	})
}

// A peer that says nothing is given up after the timeout, at either end, and the dialling one comes again.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, _ := pair(t, false)
		var mu sync.Mutex
		var at []time.Duration
		began := time.Now()
		k := keep(t, KeepConfig{Config: cfg, Addr: "b:1", Dial: func(context.Context, string) (net.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			at = append(at, time.Since(began).Round(time.Second))
			a, b := net.Pipe()
			go func() { _, _ = io.Copy(io.Discard, b) }() // ends with a
			return a, nil
		}}, echo)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := k.Ready(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		mu.Lock()
		defer mu.Unlock()
		if len(at) < 5 || len(at) > 7 || at[1]-at[0] != DefaultTimeout {
			t.Errorf("dialled after %v", at)
		}
		k.Close()
	})
	synctest.Test(t, func(t *testing.T) {
		_, cfg := pair(t, false)
		lis := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
		a, err := NewAcceptor(lis, cfg)
		if err != nil {
			t.Fatal(err)
		}
		ours, theirs := net.Pipe()
		lis.conns <- theirs
		began := time.Now()
		if _, err := ours.Read(make([]byte, 1)); err == nil || time.Since(began) != DefaultTimeout {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		_ = ours.Close()
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
}

// Dials that fail come with growing pauses, and Ready says why.
func TestPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, _ := pair(t, false)
		dials := 0
		k := keep(t, KeepConfig{Config: cfg, Addr: "b:1", Dial: func(context.Context, string) (net.Conn, error) {
			dials++ // one connection, hence one goroutine
			return nil, syscall.ECONNREFUSED
		}}, echo)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := k.Ready(ctx); !errors.Is(err, syscall.ECONNREFUSED) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		k.Close()
		if dials < 30 || dials > 70 {
			t.Errorf("%d dials in a minute", dials)
		}
		if err := k.Ready(t.Context()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}

type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// Close of the acceptor wakes who waits, ends what nobody took, and leaves what was taken.
func TestAcceptorClose(t *testing.T) {
	src, dst := pair(t, true)
	a := accept(t, dst)
	k := keep(t, KeepConfig{Config: src, Addr: a.Addr().String(), Bulk: 2}, echo)
	if err := k.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	taken, err := a.Next(t.Context(), Bulk)
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	waits := make(chan error, 1)
	go func() { _, err := a.Next(context.Background(), Stream); waits <- err }()
	for range 2 {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := <-waits; !errors.Is(err, net.ErrClosed) {
		t.Errorf("who waited got %v", err)
	}
	say(t, taken, "still here")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := accept(t, dst).Next(ctx, Bulk); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled wait: %v", err)
	}
}

// Close of the keeper ends connections in use and waits for serve.
func TestKeeperClose(t *testing.T) {
	src, dst := pair(t, false)
	a := accept(t, dst)
	ended := false
	k := keep(t, KeepConfig{Config: src, Addr: a.Addr().String()}, func(ctx context.Context, c *Conn) {
		_, _ = c.Read(make([]byte, 1))
		if ctx.Err() == nil {
			t.Error("serve's context goes on")
		}
		ended = true
	})
	if err := k.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.Close()
	k.Close()
	if !ended {
		t.Error("serve still runs")
	}
}

func TestListen(t *testing.T) {
	first, err := Listen(t.Context(), "127.0.0.1:0", [2]int{})
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	taken := first.Addr().(*net.TCPAddr).Port
	if _, err := Listen(t.Context(), "127.0.0.1:0", [2]int{taken, taken}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a range that is in use: %v", err)
	}
	if hi := min(taken+20, 65535); hi > taken {
		next, err := Listen(t.Context(), "127.0.0.1:0", [2]int{taken, hi})
		if err != nil {
			t.Fatal(err)
		}
		defer next.Close()
		if p := next.Addr().(*net.TCPAddr).Port; p <= taken || p > hi {
			t.Errorf("port %d is not of %d-%d", p, taken+1, hi)
		}
	}
	for _, ports := range [][2]int{{5, 4}, {0, 7}, {1, 70000}, {-1, 1}} {
		if _, err := Listen(t.Context(), "127.0.0.1:0", ports); err == nil {
			t.Errorf("the range %v is taken", ports)
		}
	}
	if _, err := Listen(t.Context(), "nowhere", [2]int{}); err == nil {
		t.Error("an address without a port is taken")
	}
}

// The lines are a contract between versions.
func TestWhatIsSaid(t *testing.T) {
	b, err := json.Marshal(preface{Version, "m", "t", Bulk, 3})
	if want := `{"version":1,"migration":"m","token":"t","role":"bulk","index":3}`; err != nil || string(b) != want {
		t.Errorf("%s, %v", b, err)
	}
}
