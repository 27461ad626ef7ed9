package qmp_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/qmp"
)

func TestErrors(t *testing.T) {
	e := &qmp.Error{Class: qmp.ClassDeviceNotActive, Desc: "no job", Command: "block-job-cancel"}
	wrapped := fmt.Errorf("mirror: %w", e)
	if !qmp.IsDeviceNotActive(wrapped) || qmp.IsCommandNotFound(wrapped) || qmp.IsCommandNotFound(io.EOF) {
		t.Error("classes are not told apart")
	}
	if !errors.Is(wrapped, &qmp.Error{Command: "block-job-cancel"}) || errors.Is(wrapped, &qmp.Error{Desc: "other"}) {
		t.Error("fields are not told apart")
	}
	if s := e.Error(); s != "qmp: block-job-cancel: DeviceNotActive: no job" {
		t.Error(s)
	}
	for sent, want := range map[bool]string{false: "not sent", true: "may have run"} {
		ce := &qmp.CallError{Command: "cont", Sent: sent, Err: io.EOF}
		if !strings.Contains(ce.Error(), want) || !errors.Is(ce, io.EOF) {
			t.Errorf("%v", ce)
		}
	}
}

func TestSocketAddressString(t *testing.T) {
	for want, a := range map[string]qmp.SocketAddress{
		"tcp:[::1]:4444": qmp.InetAddress("::1", "4444"),
		"unix:/run/q":    qmp.UnixAddress("/run/q"),
		"fd:mig":         qmp.FDAddress("mig"),
		"vsock:3:1":      {Type: qmp.AddressVsock, CID: "3", Port: "1"},
		"other:?":        {Type: "other"},
	} {
		if got := a.String(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
