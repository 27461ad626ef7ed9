package qmp_test

import (
	"context"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vmmigrate/vmmigrate/qmp"
	"github.com/vmmigrate/vmmigrate/qmp/qmptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testContext ends before the test binary's own limit would hide where it hung.
func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// connect negotiates on conn and closes the client with the test.
func connect(t testing.TB, conn net.Conn, opts ...qmp.Option) *qmp.Client {
	t.Helper()
	c, err := qmp.NewClient(testContext(t), conn, opts...)
	if err != nil {
		t.Fatalf("NewClient: %v", err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// script connects a client to a fake that negotiates and then plays steps.
func script(t testing.TB, steps ...qmptest.Step) *qmp.Client {
	t.Helper()
	return connect(t, qmptest.Start(t, append([]qmptest.Step{qmptest.Negotiate("oob")}, steps...)...))
}
