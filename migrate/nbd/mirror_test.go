package nbd

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/internal/need"
)

// monitor is a QEMU without a machine, for its block layer.
type monitor struct {
	testing.TB
	in  io.Writer
	out *json.Decoder
}

func startQEMU(tb testing.TB) *monitor {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), toolTime)
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none", "-S", "-qmp", "stdio")
	in, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // killed
		if tb.Failed() {
			tb.Log(complaint.String())
		}
	})
	m := &monitor{tb, in, json.NewDecoder(out)}
	m.until(`"QMP"`)
	m.do(`{"execute": "qmp_capabilities"}`)
	return m
}

// until reads messages up to one that holds all these texts.
func (m *monitor) until(texts ...string) string {
	m.Helper()
	for {
		var msg json.RawMessage
		if err := m.out.Decode(&msg); err != nil {
			m.Fatalf("waiting for %q: %v", texts, err)
		}
		found := true
		for _, text := range texts {
			found = found && strings.Contains(string(msg), text)
		}
		if found {
			return string(msg)
		}
		if strings.Contains(string(msg), `"error"`) {
			m.Fatalf("waiting for %q: %s", texts, msg)
		}
	}
}

func (m *monitor) do(command string) {
	m.Helper()
	if _, err := io.WriteString(m.in, command); err != nil {
		m.Fatal(err)
	}
	m.until(`"return"`)
}

// QEMU mirrors a disk to the server: it gets ready and completes, the copy is the same, and holes have stayed holes.
func TestT3MirrorIntoTheServer(t *testing.T) {
	need.NBD(t)
	need.QEMU(t)
	const size = 16 << 20
	_, from := memfile(t, size, FileOptions{})
	data := pattern(5<<20, 21)
	if _, err := from.WriteAt(data, 3<<20); err != nil {
		t.Fatal(err)
	}
	to, f := memfile(t, size, FileOptions{})
	uri := serveUnix(t, Export{Name: "drive-vda", Backend: to})("drive-vda")
	socket := uri[strings.Index(uri, "=")+1:]
	q := startQEMU(t)
	q.do(fmt.Sprintf(`{"execute": "blockdev-add", "arguments": {"driver": "file", "node-name": "src", "filename": %q, "discard": "unmap"}}`, from.Name()))
	q.do(fmt.Sprintf(`{"execute": "blockdev-add", "arguments": {"driver": "nbd", "node-name": "dst", "server": {"type": "unix", "path": %q}, "export": "drive-vda", "discard": "unmap", "detect-zeroes": "unmap"}}`, socket))
	q.do(`{"execute": "blockdev-mirror", "arguments": {"job-id": "m", "device": "src", "target": "dst", "sync": "full"}}`)
	q.until("BLOCK_JOB_READY")
	q.do(`{"execute": "block-job-complete", "arguments": {"device": "m"}}`)
	if end := q.until("BLOCK_JOB_COMPLETED"); strings.Contains(end, "error") {
		t.Errorf("the mirror ended so: %s", end)
	}
	got := make([]byte, size)
	if _, err := to.ReadAt(got, 0); err != nil || !bytes.Equal(got[3<<20:8<<20], data) || bytes.Count(got, []byte{0}) != size-len(data)+bytes.Count(data, []byte{0}) {
		t.Errorf("the copy is another: %v", err)
	}
	if is, was := allocated(t, f), allocated(t, from); is > was {
		t.Errorf("the copy takes %d KiB, what was copied %d KiB", is, was)
	}
}

func allocated(t *testing.T, f *os.File) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(f.Name(), &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks / 2
}
