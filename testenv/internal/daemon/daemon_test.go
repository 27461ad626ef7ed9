package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vmmigrate/vmmigrate/testenv/internal/control"
	"github.com/vmmigrate/vmmigrate/testenv/internal/hugepages"
	"github.com/vmmigrate/vmmigrate/testenv/internal/layout"
	"github.com/vmmigrate/vmmigrate/testenv/internal/owner"
	"github.com/vmmigrate/vmmigrate/testenv/link"
	"github.com/vmmigrate/vmmigrate/testenv/pki"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStateSurvivesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	if _, err := ReadState(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	p, err := layout.New("demo", "/var/tmp/x", []string{"a", "b"}, link.Spec{Rate: 1e9, Loss: 0.1})
	if err != nil {
		t.Fatal(err)
	}
	want := State{Version: StateVersion, Plan: p, Daemon: owner.Identity{PID: 7, Start: 8, Boot: "x"}, Ready: true,
		Hosts: map[string]owner.Identity{"a": {PID: 9}}}
	if err := WriteState(path, want); err != nil {
		t.Fatal(err)
	}
	got, err := ReadState(path)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	if err := os.WriteFile(path, make([]byte, maxState+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadState(path); err == nil {
		t.Error("a state file without bounds is read")
	}
}

func FuzzDecodeState(f *testing.F) {
	f.Add([]byte(`{"version":1,"plan":{"name":"demo","dir":"/x","hosts":[{"name":"a","address":"10.77.0.1/24"}]},"daemon":{"pid":1}}`))
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`{"version":1}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := decodeState(data)
		if err == nil && (s.Version != StateVersion || s.Plan.Name == "") {
			t.Errorf("accepted %+v", s)
		}
	})
}

// silentDialer reaches a port of this machine where nobody answers.
type silentDialer struct{ net.PacketConn }

func (d silentDialer) DialContext(ctx context.Context, network, _ string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, network, d.LocalAddr().String())
}

func silentGuests(t *testing.T) *guests {
	t.Helper()
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	return newGuests(silentDialer{silent}, hugepages.In(t.TempDir()))
}

func TestGuestsHavePlacesOfTheirOwn(t *testing.T) {
	g := silentGuests(t)
	add := func(name string) (Guest, error) {
		r, err := g.add(context.Background(), control.Request{Guest: name, Args: json.RawMessage(`{"x":1}`)})
		if err != nil {
			return Guest{}, err
		}
		return r.(Guest), nil
	}
	seen := map[netip.Prefix]string{}
	for _, name := range []string{"one", "two", "three"} {
		added, err := add(name)
		if err != nil || seen[added.Address] != "" {
			t.Fatalf("%s: %+v, %v", name, added, err)
		}
		seen[added.Address] = name
	}
	if _, err := add("two"); err == nil {
		t.Error("a name is given twice")
	}
	if _, err := add("no good"); err == nil {
		t.Error("a wrong name is accepted")
	}
	if _, err := g.remove(context.Background(), control.Request{Guest: "two"}); err != nil {
		t.Fatal(err)
	}
	again, err := add("four")
	if err != nil || seen[again.Address] != "two" {
		t.Errorf("a place that was given up is not used: %+v, %v", again, err)
	}
	if all := g.all(); len(all) != 3 || all[0].Name != "four" || string(all[0].Config) != `{"x":1}` {
		t.Errorf("guests %+v", all)
	}
	for i := range layout.MaxGuests - 3 {
		if _, err := add(strings.Repeat("x", 1+i%20) + string(rune('a'+i/20))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := add("more"); err == nil {
		t.Error("more guests than addresses")
	}
}

func TestGuestsAreWatchedUntilRemoved(t *testing.T) {
	g := silentGuests(t)
	r := control.Request{Guest: "web"}
	if _, err := g.report(context.Background(), r); err == nil {
		t.Error("a guest that is not there is reported")
	}
	if _, err := g.add(context.Background(), r); err != nil {
		t.Fatal(err)
	}
	if _, err := g.report(context.Background(), r); !errors.Is(err, errUnwatched) {
		t.Errorf("before it is watched: %v", err)
	}
	// Nobody answers, so watching lasts as long as it may.
	ctx, stop := context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer stop()
	if _, err := g.watch(ctx, r); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("watch: %v", err)
	}
	if _, err := g.report(context.Background(), r); err != nil {
		t.Errorf("report: %v", err)
	}
	g.close() // joins the witness, or the leak check finds it
}

func TestUnknownOperationsNameTheKnown(t *testing.T) {
	l := &lab{log: slog.New(slog.DiscardHandler), guests: silentGuests(t)}
	_, err := l.handle(context.Background(), control.Request{Op: "dance"})
	if err == nil || !strings.Contains(err.Error(), "add-guest, block, ") {
		t.Errorf("got %v", err)
	}
}

func TestCertificatesAreReplacedWhole(t *testing.T) {
	p, err := layout.New("t", t.TempDir(), []string{"a"}, link.Spec{})
	if err != nil {
		t.Skip(err)
	}
	if err := os.Mkdir(p.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Authority(p); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no authority: %v", err)
	}
	made, err := makeAuthority(p)
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := Authority(p)
	if err != nil || string(loaded.Cert()) != string(made.Cert()) {
		t.Fatalf("another authority is loaded: %v", err)
	}
	h := p.Hosts[0]
	var last []byte
	for _, ca := range []*pki.CA{made, loaded} {
		if err := InstallPKI(ca, h, time.Time{}); err != nil {
			t.Fatal(err)
		}
		key := filepath.Join(h.PKI(), "qemu/server-key.pem")
		now, err := os.ReadFile(key)
		if err != nil || string(now) == string(last) {
			t.Errorf("the key is not replaced: %v", err)
		}
		if info, _ := os.Stat(key); info.Mode().Perm() != 0o600 {
			t.Errorf("the key can be read: %v", info.Mode())
		}
		last = now
	}
	if left, _ := filepath.Glob(h.PKI() + "/*/*.new"); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestHelperEnvIsNotTheCallers(t *testing.T) {
	t.Setenv("SECRET", "x")
	t.Setenv("GOCOVERDIR", "/c")
	env := strings.Join(HelperEnv(RoleHost), " ")
	if strings.Contains(env, "SECRET") || !strings.Contains(env, RoleEnv+"="+RoleHost) || !strings.Contains(env, "GOCOVERDIR=/c") {
		t.Errorf("environment %q", env)
	}
}
