package main

import (
	"bytes"
	"io"
	"testing"
	"testing/synctest"
)

// Nobody waits for a reader that does not read, and what is written is written in order.
func TestLossyWriter(t *testing.T) {
	var out bytes.Buffer
	l := newLossyWriter(&out)
	_, _ = l.Write([]byte("a"))
	_, _ = l.Write([]byte("b"))
	l.Close()
	l.Close()
	if out.String() != "ab" {
		t.Errorf("wrote %q", out.String())
	}
	synctest.Test(t, func(*testing.T) {
		r, w := io.Pipe()
		l := newLossyWriter(w)
		for range 2 * lossyQueue {
			_, _ = l.Write([]byte("x"))
		}
		l.Close()
		_ = r.Close()
		<-l.done
	})
}
