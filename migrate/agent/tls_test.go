package agent_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/agent/agenttest"
	"github.com/vmmigrate/vmmigrate/testenv/pki"
)

// issued is a CA and its files for both ends.
type issued struct {
	ca             *pki.CA
	server, client agent.PKI
}

func write(t *testing.T, dir, name string, content []byte) string {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// files writes a pair where an agent finds it.
func files(t *testing.T, ca *pki.CA, r pki.Request) agent.PKI {
	t.Helper()
	pair, err := ca.Issue(r)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	return agent.PKI{CA: write(t, dir, "ca.pem", ca.Cert()), Cert: write(t, dir, "cert.pem", pair.Cert),
		Key: write(t, dir, "key.pem", pair.Key), CRL: filepath.Join(dir, "crl.pem")}
}

func serverOf(name string) pki.Request {
	return pki.Request{Name: name, Server: true, DNS: []string{name}, IPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}
}

func clientOf(name string) pki.Request { return pki.Request{Name: name, Client: true} }

func newCA(t *testing.T) *pki.CA {
	t.Helper()
	ca, err := pki.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func issue(t *testing.T) issued {
	t.Helper()
	ca := newCA(t)
	return issued{ca, files(t, ca, serverOf("agent-host")), files(t, ca, clientOf("coordinator-host"))}
}

// serve is an installed agent that ends with the test; it gives the port.
func serve(t *testing.T, p agent.PKI, allow ...string) int {
	t.Helper()
	cfg, err := p.Server()
	if err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- agent.Serve(ctx, lis, func() (agent.Agent, error) {
			return &agenttest.Fake{Identity: agent.Identity{Protocol: agent.Protocol, Host: "agent-host"}}, nil
		}, agent.Options{Version: "v1", TLS: cfg, Allow: allow})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return lis.Addr().(*net.TCPAddr).Port
}

// dial asks the installed agent who it is.
func dial(t *testing.T, p agent.PKI, port int, host string) error {
	t.Helper()
	a, err := agent.Connector{Version: "v1", Port: port, PKI: &p}.Connect(t.Context(), migrate.Place{Name: host})
	if err != nil {
		return err
	}
	id, err := a.Hello(t.Context())
	if err == nil && id.Host != "agent-host" {
		t.Errorf("this is %+v", id)
	}
	return errors.Join(err, a.Close())
}

func TestInstalledAgent(t *testing.T) {
	agenttest.Conformance(t, func(t *testing.T, impl agent.Agent) agent.Agent {
		i := issue(t)
		cfg, err := i.server.Server()
		if err != nil {
			t.Fatal(err)
		}
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() {
			ended <- agent.Serve(ctx, lis, func() (agent.Agent, error) { return impl, nil },
				agent.Options{Version: "v1", TLS: cfg, Allow: []string{"coordinator-*"}})
		}()
		a, err := agent.Connector{Version: "v1", Port: lis.Addr().(*net.TCPAddr).Port, PKI: &i.client}.Connect(t.Context(), migrate.Place{Name: "127.0.0.1"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = a.Close()
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
		return a
	})
}

// Who is let in, and what those are told who are not.
func TestWhoIsLetIn(t *testing.T) {
	i := issue(t)
	hour := time.Hour
	expired := func(r pki.Request) pki.Request {
		r.NotBefore, r.NotAfter = time.Now().Add(-48*hour), time.Now().Add(-hour)
		return r
	}
	stranger := files(t, newCA(t), clientOf("coordinator-host"))
	strangeButTrusting := stranger
	strangeButTrusting.CA = i.client.CA
	serverUse := files(t, i.ca, serverOf("coordinator-host"))
	for name, c := range map[string]struct {
		client agent.PKI
		allow  []string
		host   string
		want   string // in the error; empty is let in
		fix    string // in its fix
	}{
		"by name":           {i.client, []string{"coordinator-host"}, "127.0.0.1", "", ""},
		"the whole CA":      {i.client, []string{"*"}, "127.0.0.1", "", ""},
		"by DN":             {i.client, []string{"*CN=coordinator-host*"}, "127.0.0.1", "", ""},
		"not on the list":   {i.client, []string{"other-host"}, "127.0.0.1", "not allowed", "--allow 'coordinator-host'"},
		"empty list":        {i.client, nil, "127.0.0.1", "not allowed", "--allow 'coordinator-host'"},
		"client's other CA": {strangeButTrusting, []string{"*"}, "127.0.0.1", "does not take the certificate", "of the agent's CA"},
		"agent's other CA":  {stranger, []string{"*"}, "127.0.0.1", "not accepted", "is the CA of the agent's certificate"},
		"other name":        {i.client, []string{"*"}, "localhost", "made out to", "name the host as its certificate does"},
		"no client use":     {serverUse, []string{"*"}, "127.0.0.1", "does not take the certificate", "for use as a TLS client"},
	} {
		t.Run(name, func(t *testing.T) {
			err := dial(t, c.client, serve(t, i.server, c.allow...), c.host)
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(migrate.FixOf(err), c.fix)):
				t.Errorf("%v, fix %q", err, migrate.FixOf(err))
			}
		})
	}
	old := files(t, i.ca, expired(clientOf("coordinator-host")))
	if err := dial(t, old, 1, "127.0.0.1"); err == nil || !strings.Contains(err.Error(), "expired on") || !strings.Contains(migrate.FixOf(err), "renew") {
		t.Errorf("our certificate has expired: %v", err)
	}
	if _, err := files(t, i.ca, expired(serverOf("agent-host"))).Server(); err == nil || !strings.Contains(err.Error(), "expired on") {
		t.Errorf("the agent's certificate has expired: %v", err)
	}
	for _, missing := range []agent.PKI{{}, {CA: i.client.CA}, {CA: i.client.Key, Cert: i.client.Cert, Key: i.client.Key},
		{CA: i.client.CA, Cert: i.client.Cert, Key: i.server.Key}} {
		if _, err := missing.Client("h"); err == nil || migrate.FixOf(err) == "" {
			t.Errorf("%+v: %v", missing, err)
		}
	}
}

// A certificate counts as it is when somebody connects: renewed, expired since, or revoked.
func TestFilesChange(t *testing.T) {
	i := issue(t)
	port := serve(t, i.server, "*")
	if err := dial(t, i.client, port, "127.0.0.1"); err != nil {
		t.Fatal(err)
	}
	revoke(t, i)
	if err := dial(t, i.client, port, "127.0.0.1"); err == nil || !strings.Contains(err.Error(), "does not take the certificate") {
		t.Errorf("a revoked certificate: %v", err)
	}
	if err := os.WriteFile(i.server.CRL, []byte("no list"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := dial(t, i.client, port, "127.0.0.1"); err == nil {
		t.Error("let in although the list of revoked certificates cannot be read")
	}
	if err := os.Remove(i.server.CRL); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(i.server.Cert); err != nil {
		t.Fatal(err)
	}
	if err := dial(t, i.client, port, "127.0.0.1"); err == nil {
		t.Error("let in by an agent without certificate")
	}
	renewed := files(t, i.ca, serverOf("agent-host"))
	for from, to := range map[string]string{renewed.Cert: i.server.Cert, renewed.Key: i.server.Key} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	if err := dial(t, i.client, port, "127.0.0.1"); err != nil {
		t.Errorf("after the renewal: %v", err)
	}
}

// revoke puts the client's certificate on the list that the agent reads.
func revoke(t *testing.T, i issued) {
	t.Helper()
	text, err := os.ReadFile(i.client.Cert)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := i.ca.Pair()
	if err != nil {
		t.Fatal(err)
	}
	certBlock, _ := pem.Decode(pair.Cert)
	keyBlock, _ := pem.Decode(pair.Key)
	ca, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.ParsePKCS8PrivateKey(keyBlock.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour),
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: leaf.SerialNumber, RevocationTime: time.Now()}}}, ca, key.(crypto.Signer))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(i.server.CRL, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Nobody there, nobody named.
func TestNoAgent(t *testing.T) {
	i := issue(t)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := lis.Addr().(*net.TCPAddr).Port
	_ = lis.Close()
	if err := dial(t, i.client, port, "127.0.0.1"); !errors.Is(err, migrate.ErrLinkLost) || !strings.Contains(migrate.FixOf(err), "systemctl start") {
		t.Errorf("%v", err)
	}
	if _, err := (agent.Connector{}).Connect(t.Context(), migrate.Place{}); err == nil {
		t.Error("an agent of nowhere")
	}
}

// The front gives each coordinator a process of its own, which outlives the front where its guest needs it, and lets nobody
// in who is not on the list.
func TestT2Front(t *testing.T) {
	need.Netns(t)
	i := issue(t)
	cfg, err := i.server.Server()
	if err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(t.TempDir(), "leave")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(stayEnv, fifo)
	front := func(allow ...string) (port int, stop func()) {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() {
			ended <- agent.Connector{}.Front(ctx, lis, agent.Options{Version: testVersion, TLS: cfg, Allow: allow})
		}()
		return lis.Addr().(*net.TCPAddr).Port, func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}
	port, stop := front("other-host")
	if err := dial(t, i.client, port, "127.0.0.1"); err == nil || !strings.Contains(err.Error(), "not allowed") {
		t.Errorf("not on the list: %v", err)
	}
	stop()
	port, stop = front("coordinator-host")
	_, one, _ := reach(t, agent.Connector{Port: port, PKI: &i.client}, migrate.Place{Name: "127.0.0.1"})
	a, two, _ := reach(t, agent.Connector{Port: port, PKI: &i.client}, migrate.Place{Name: "127.0.0.1"})
	if one.PID == two.PID || one.PID == os.Getpid() {
		t.Errorf("agents %d and %d in process %d", one.PID, two.PID, os.Getpid())
	}
	stop()
	if _, err := a.Hello(t.Context()); !errors.Is(err, migrate.ErrLinkLost) {
		t.Errorf("after the front: %v", err)
	}
	for _, pid := range []int{one.PID, two.PID} {
		if _, stat, err := sessionOf(pid); err != nil || strings.Contains(stat, ") Z ") {
			t.Errorf("agent %d went with the front: %s, %v", pid, stat, err)
		}
	}
	if err := os.WriteFile(fifo, []byte("go"), 0); err != nil { // a byte for each
		t.Fatal(err)
	}
	gone(t, one.PID)
	gone(t, two.PID)
	if err := (agent.Connector{}).Front(t.Context(), nowhere{}, agent.Options{}); err == nil {
		t.Error("a front without certificates")
	}
}

type nowhere struct{ net.Listener }

func (nowhere) Close() error { return nil }
