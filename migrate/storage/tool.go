package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"
)

// qemuImg runs qemu-img and gives what it prints. extra are files that it finds from descriptor 3 on.
func qemuImg(ctx context.Context, extra []*os.File, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "qemu-img", args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C") // errors are told by their words
	cmd.ExtraFiles = extra
	cmd.WaitDelay = time.Second
	out, words := &bounded{limit: maxOutput}, &bounded{limit: 4096}
	cmd.Stdout, cmd.Stderr = out, words
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, exec.ErrNotFound):
		return nil, &Error{Op: "run", Path: "qemu-img", Err: fmt.Errorf("%w: %w", ErrNoTool, err), Fix: "install qemu-utils (qemu-img) there"}
	case err != nil:
		return nil, saidBy(words.b.String(), err)
	case out.lost:
		return nil, fmt.Errorf("qemu-img says more than %d MiB", maxOutput>>20)
	}
	return out.b.Bytes(), nil
}

// bounded keeps the beginning of what is written to it.
type bounded struct {
	b     bytes.Buffer
	limit int
	lost  bool
}

func (w *bounded) Write(p []byte) (int, error) {
	if room := w.limit - w.b.Len(); len(p) > room {
		w.lost = true
		w.b.Write(p[:room])
		return len(p), nil
	}
	return w.b.Write(p)
}
