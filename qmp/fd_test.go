package qmp_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"

	"github.com/vmmigrate/vmmigrate/qmp"
	"github.com/vmmigrate/vmmigrate/qmp/qmptest"
)

// dial connects to a fake on a unix socket.
func dial(t testing.TB, path string, opts ...qmp.Option) *qmp.Client {
	t.Helper()
	c, err := qmp.Dial(testContext(t), "unix", path, opts...)
	if err != nil {
		t.Fatalf("Dial: %v", err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// pipeWith gives the reading end of a pipe that holds text.
func pipeWith(t testing.TB, text string) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	if _, err := w.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return r
}

// wantText is a receiver of descriptors that checks what they hold.
func wantText(t testing.TB, want string) func(*os.File) {
	return func(f *os.File) {
		defer func() { _ = f.Close() }()
		b, err := io.ReadAll(f)
		if err != nil || string(b) != want {
			t.Errorf("the file holds %q, %v; want %q", b, err, want)
		}
	}
}

// Descriptors arrive with their own command, though out-of-band execution was not
// even offered.
func TestPassFiles(t *testing.T) {
	c := dial(t, qmptest.Listen(t, []qmptest.Step{
		qmptest.Negotiate(),
		qmptest.Expect("getfd").Args(map[string]string{"fdname": "a"}).File(wantText(t, "first")).Return(nil),
		qmptest.Expect("add-fd").Args(map[string]int{"fdset-id": 4}).File(wantText(t, "second")).
			Return(map[string]int{"fdset-id": 4, "fd": 17}),
		qmptest.Expect("closefd").Args(map[string]string{"fdname": "a"}).Return(nil),
		qmptest.Expect("remove-fd").Args(map[string]int{"fdset-id": 4, "fd": 17}).Return(nil),
	}))
	ctx := testContext(t)
	if err := qmp.GetFD(ctx, c, "a", pipeWith(t, "first")); err != nil {
		t.Error(err)
	}
	added, err := qmp.AddFD(ctx, c, new(int64(4)), pipeWith(t, "second"))
	if err != nil || added != (qmp.AddedFD{SetID: 4, FD: 17}) {
		t.Errorf("AddFD: %+v, %v", added, err)
	}
	if err := qmp.CloseFD(ctx, c, "a"); err != nil {
		t.Error(err)
	}
	if err := qmp.RemoveFD(ctx, c, 4, new(int64(17))); err != nil {
		t.Error(err)
	}
}

// QEMU keeps the newest descriptor alone, so a second must not be on the wire
// before the first command is answered.
func TestOneFileAtATime(t *testing.T) {
	const n = 20
	steps := []qmptest.Step{qmptest.Negotiate()}
	for range n {
		var got string
		steps = append(steps, qmptest.Expect("getfd").Check(func(c qmptest.Command) error {
			got = string(c.Args)
			return nil
		}).File(func(f *os.File) {
			defer func() { _ = f.Close() }()
			if b, err := io.ReadAll(f); err != nil || string(b) != got {
				t.Errorf("command %s came with the file of %s (%v)", got, b, err)
			}
		}).Return(nil))
	}
	c := dial(t, qmptest.Listen(t, steps))
	ctx := testContext(t)
	var wg sync.WaitGroup
	for i := range n {
		name := fmt.Sprintf("f%d", i)
		file := pipeWith(t, fmt.Sprintf(`{"fdname":%q}`, name))
		wg.Go(func() {
			if err := qmp.GetFD(ctx, c, name, file); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestFilesThatCannotBePassed(t *testing.T) {
	ctx := testContext(t)
	file := pipeWith(t, "")
	var ce *qmp.CallError
	err := qmp.GetFD(ctx, script(t), "a", file)
	if !errors.Is(err, qmp.ErrNoDescriptors) || !errors.As(err, &ce) || ce.Sent {
		t.Errorf("over a pipe: %v", err)
	}
	if err := qmp.GetFD(ctx, noFiles{}, "a", file); !errors.Is(err, qmp.ErrNoDescriptors) {
		t.Errorf("over another Executor: %v", err)
	}
	c := dial(t, qmptest.Listen(t, []qmptest.Step{qmptest.Negotiate(), qmptest.Expect("getfd").File(wantText(t, "x")).Return(nil)}))
	closed := pipeWith(t, "")
	_ = closed.Close()
	if err := qmp.GetFD(ctx, c, "a", closed); !errors.As(err, &ce) || ce.Sent {
		t.Errorf("closed file: %v", err)
	}
	if err := qmp.GetFD(ctx, c, "a", pipeWith(t, "x")); err != nil {
		t.Errorf("the next file: %v", err)
	}
}

// noFiles is an Executor that can do nothing but be one.
type noFiles struct{ qmp.Executor }
