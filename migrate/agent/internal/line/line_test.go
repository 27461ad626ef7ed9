package line

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

type thing struct {
	A int `json:"a"`
}

func TestReadTakesNotAByteMore(t *testing.T) {
	r := strings.NewReader("{\"a\":1}\nrest")
	b, err := Read(r)
	rest, _ := io.ReadAll(r)
	if err != nil || string(b) != `{"a":1}` || string(rest) != "rest" {
		t.Errorf("%s, %v, then %s", b, err, rest)
	}
	if _, err := Read(strings.NewReader(strings.Repeat("x", Max) + "\n")); err == nil {
		t.Error("a line without end is read")
	}
	if _, err := Read(strings.NewReader("\x15\x03\x01")); !errors.Is(err, ErrForeign) {
		t.Errorf("a TLS alert: %v", err)
	}
	if _, err := Read(strings.NewReader("half")); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("half a line: %v", err)
	}
}

func TestDecodeIsStrict(t *testing.T) {
	var v thing
	if err := Decode([]byte(` {"a":7} `), &v); err != nil || v.A != 7 {
		t.Errorf("%+v, %v", v, err)
	}
	for _, bad := range []string{``, `7`, `{"b":1}`, `{"a":1}{"a":2}`, `{"a":1} x`, `{"a":"1"}`} {
		if err := Decode([]byte(bad), &v); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
	if err := Write(io.Discard, strings.Repeat("x", Max)); err == nil {
		t.Error("a line that nobody would read is written")
	}
}

func FuzzLine(f *testing.F) {
	f.Add([]byte("{\"a\":1}\n"))
	f.Fuzz(func(t *testing.T, p []byte) {
		b, err := Read(bytes.NewReader(p))
		if err != nil {
			return
		}
		if !bytes.HasPrefix(p, append(b, '\n')) {
			t.Fatalf("%q is not how %q begins", b, p)
		}
		var v thing
		if Decode(b, &v) != nil {
			return
		}
		var out bytes.Buffer
		if err := Write(&out, v); err != nil {
			t.Fatal(err)
		}
	})
}
