package control

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func serve(t *testing.T, h Handler) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	s, err := Serve(context.Background(), socket, h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
	})
	return socket
}

func TestCall(t *testing.T) {
	socket := serve(t, func(_ context.Context, r Request) (any, error) {
		if r.Host == "" {
			return nil, errors.New("which host?")
		}
		return map[string]string{"did": r.Op + " " + r.Host}, nil
	})
	var got struct{ Did string }
	if err := Call(t.Context(), socket, Request{Op: "cut", Host: "a"}, &got); err != nil || got.Did != "cut a" {
		t.Errorf("got %+v, %v", got, err)
	}
	var remote *RemoteError
	err := Call(t.Context(), socket, Request{Op: "cut"}, nil)
	if !errors.As(err, &remote) || remote.Op != "cut" || err.Error() != "which host?" {
		t.Errorf("got %v", err)
	}
	if err := Call(t.Context(), socket+"x", Request{}, nil); err == nil {
		t.Error("no error without a daemon")
	}
}

func TestLeavingCancelsTheRequest(t *testing.T) {
	started, cancelled := make(chan struct{}), make(chan struct{})
	socket := serve(t, func(ctx context.Context, _ Request) (any, error) {
		close(started)
		<-ctx.Done()
		close(cancelled)
		return nil, ctx.Err()
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("changed my mind")
	go func() { <-started; cancel(why) }()
	if err := Call(ctx, socket, Request{Op: "wait"}, nil); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	<-cancelled
}

func TestLongMessagesAreRefused(t *testing.T) {
	socket := serve(t, func(context.Context, Request) (any, error) {
		t.Error("the handler is called")
		return nil, nil
	})
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	go conn.Write(bytes.Repeat([]byte("x"), maxRequest+1)) // fails when the daemon hangs up
	line, err := io.ReadAll(conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("the daemon reads on")
	}
	if len(line) != 0 && !strings.Contains(string(line), "too long") {
		t.Errorf("answer %q", line)
	}
}

func FuzzReadLine(f *testing.F) {
	f.Add([]byte(`{"op":"cut","host":"a"}` + "\n"))
	f.Add([]byte("{}"))
	f.Add([]byte("\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var r Request
		const limit = 64
		err := readLine(bytes.NewReader(data), limit, &r)
		if err == nil && bytes.IndexByte(data, '\n') >= limit {
			t.Errorf("a line of %d bytes passed", len(data))
		}
	})
}
