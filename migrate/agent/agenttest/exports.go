package agenttest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"reflect"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmmigrate/vmmigrate/migrate/agent"
)

func exportSpec() agent.ExportSpec {
	return agent.ExportSpec{Guest: agent.Guest{Name: "web", PIDFile: "/p"}, Regions: regions(), Track: true}
}

func exported(t *testing.T, a agent.Agent) agent.Exported {
	t.Helper()
	x, err := a.Export(t.Context(), exportSpec())
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// tcpPair is a client's connection and the server's end of it.
func tcpPair(t *testing.T) (client, server net.Conn) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	if client, err = net.Dial("tcp", lis.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = lis.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() }) // most tests have closed it
	return client, server
}

// Several connections carry different data both ways at once, more than any buffer holds, and end one by one.
func exports(t *testing.T, reach Reach) {
	f := &Fake{}
	x := exported(t, reach(t, f))
	if got, _ := f.Last("Export"); !reflect.DeepEqual(got.With, exportSpec()) {
		t.Error(cmp.Diff(exportSpec(), got.With))
	}
	var wg sync.WaitGroup
	for i := range 3 {
		client, server := tcpPair(t)
		wg.Go(func() {
			if err := x.Serve(t.Context(), server); err != nil {
				t.Errorf("connection %d: %v", i, err)
			}
		})
		sent := bytes.Repeat([]byte{byte(i), 1, 2, 3, 4, 5, 6}, 1<<20)
		wg.Go(func() {
			_, err := client.Write(sent)
			if err := errors.Join(err, client.(*net.TCPConn).CloseWrite()); err != nil {
				t.Errorf("connection %d: %v", i, err)
			}
		})
		wg.Go(func() {
			if got, err := io.ReadAll(client); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("connection %d: %d bytes of %d came back: %v", i, len(got), len(sent), err)
			}
		})
	}
	wg.Wait()
}

// A client that hangs up, and a server that is told to end, both end the connection.
func exportClients(t *testing.T, reach Reach) {
	f := &Fake{}
	x := exported(t, reach(t, f))
	serve := func(ctx context.Context, conn net.Conn) <-chan error {
		done := make(chan error, 1)
		go func() { done <- x.Serve(ctx, conn) }()
		return done
	}
	client, server := tcpPair(t)
	done := serve(t.Context(), server)
	echo(t, client)
	_ = client.Close()
	if err := <-done; err != nil {
		t.Errorf("the client left: %v", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	client, server = tcpPair(t)
	done = serve(ctx, server)
	echo(t, client)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("told to end: %v", err)
	}
	if _, err := client.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is still there")
	}

	client, server = tcpPair(t)
	f.Fails = map[string]error{"Serve": errMissing}
	if err := <-serve(t.Context(), server); err == nil || err.Error() != errMissing.Error() {
		t.Errorf("a server that fails: %v", err)
	}
	if _, err := client.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is still there")
	}
}

func echo(t *testing.T, client net.Conn) {
	t.Helper()
	b := []byte("x")
	if _, err := client.Write(b); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(client, b); err != nil {
		t.Fatal(err)
	}
}

// Wait tells that the exports ended by themselves, also while a client is served, and Close may be called twice.
func exportsEnd(t *testing.T, reach Reach) {
	f := &Fake{}
	x := exported(t, reach(t, f))
	at := f.Park("Wait")
	done := make(chan error, 1)
	go func() { done <- x.Wait(t.Context()) }()
	<-at.Here
	client, server := tcpPair(t)
	served := make(chan error, 1)
	go func() { served <- x.Serve(t.Context(), server) }()
	echo(t, client)
	close(at.Go)
	if err := <-done; err != nil {
		t.Error(err)
	}
	_ = client.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := x.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
