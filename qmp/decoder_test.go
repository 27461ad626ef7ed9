package qmp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// decodeAll reads messages until an error.
func decodeAll(r io.Reader, limit int) (msgs []string, err error) {
	d := newDecoder(r, limit)
	for {
		b, err := d.next()
		if err != nil {
			return msgs, err
		}
		msgs = append(msgs, string(b))
	}
}

func TestDecoderFrames(t *testing.T) {
	tests := []struct {
		name string
		in   string
		want []string
		err  error
	}{
		{"nothing", "", nil, io.EOF},
		{"white space", " \t\r\n", nil, io.EOF},
		{"one", `{"a":1}`, []string{`{"a":1}`}, io.EOF},
		{"lines", "{}\r\n{\"b\":[1,{}]}\r\n", []string{"{}", `{"b":[1,{}]}`}, io.EOF},
		{"without separators", `{}{"a":"b"}{}`, []string{"{}", `{"a":"b"}`, "{}"}, io.EOF},
		{"over lines", "{\n  \"a\": {\n  }\n}\n{}", []string{"{\n  \"a\": {\n  }\n}", "{}"}, io.EOF},
		{"braces in strings", `{"a":"}{][\"}"}{}`, []string{`{"a":"}{][\"}"}`, "{}"}, io.EOF},
		{"backslash at the end of a string", `{"a":"\\"}{}`, []string{`{"a":"\\"}`, "{}"}, io.EOF},
		{"cut", `{}{"a":`, []string{"{}"}, io.ErrUnexpectedEOF},
		{"cut in a string", `{"a":"}`, nil, io.ErrUnexpectedEOF},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			for name, r := range map[string]io.Reader{
				"whole": strings.NewReader(tc.in), "by bytes": iotest.OneByteReader(strings.NewReader(tc.in)),
				"with the error": iotest.DataErrReader(strings.NewReader(tc.in)),
			} {
				got, err := decodeAll(r, 1<<20)
				if fmt.Sprint(got) != fmt.Sprint(tc.want) || err != tc.err {
					t.Errorf("%s: got %q, %v; want %q, %v", name, got, err, tc.want, tc.err)
				}
			}
		})
	}
}

func TestDecoderRefusesWhatIsNoObject(t *testing.T) {
	for _, in := range []string{"[1]", "nonsense", "\xff{}", `"{}"`, "}"} {
		_, err := decodeAll(strings.NewReader(in), 1<<20)
		var pe *ProtocolError
		if !errors.As(err, &pe) || string(pe.Sample) != in {
			t.Errorf("%q: got %v, want a ProtocolError with it as sample", in, err)
		}
	}
}

// sized gives an object of exactly n bytes.
func sized(n int) string { return `{"a":"` + strings.Repeat("x", n-8) + `"}` }

func TestDecoderLimit(t *testing.T) {
	for _, limit := range []int{16, 100, minBuffer - 1, minBuffer, minBuffer + 1, 3*minBuffer + 7} {
		for _, reader := range []func(io.Reader) io.Reader{
			func(r io.Reader) io.Reader { return r }, iotest.OneByteReader, iotest.HalfReader,
		} {
			in := sized(limit) + "\r\n" + sized(limit) + sized(limit+1)
			got, err := decodeAll(reader(strings.NewReader(in)), limit)
			if len(got) != 2 || !errors.Is(err, ErrTooLarge) {
				t.Errorf("limit %d: %d messages, then %v; want 2, then ErrTooLarge", limit, len(got), err)
			}
		}
	}
}

// endless is a message that never ends.
type endless struct{ started bool }

func (e *endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 'x'
	}
	if !e.started {
		e.started = true
		copy(b, `{"a":"`)
	}
	return len(b), nil
}

func TestDecoderBoundsMemory(t *testing.T) {
	const limit = 4 << 20
	d := newDecoder(&endless{}, limit)
	if _, err := d.next(); !errors.Is(err, ErrTooLarge) {
		t.Fatalf("got %v, want ErrTooLarge", err)
	}
	if len(d.buf) > limit+minBuffer {
		t.Errorf("buffer grew to %d, limit %d", len(d.buf), limit)
	}
}

func TestDecoderGivesLargeBuffersUp(t *testing.T) {
	d := newDecoder(strings.NewReader(sized(3<<20)+`{"next":1}`), 64<<20)
	if b, err := d.next(); err != nil || len(b) != 3<<20 {
		t.Fatalf("large message: %d bytes, %v", len(b), err)
	}
	if len(d.buf) > keepBuffer {
		t.Errorf("buffer of %d bytes kept", len(d.buf))
	}
	if b, err := d.next(); err != nil || string(b) != `{"next":1}` {
		t.Errorf("message after it: %q, %v", b, err)
	}
}

// What next returned must not change when reading goes on: a reply outlives the
// reader's interest in it.
func TestDecoderDoesNotAlias(t *testing.T) {
	d := newDecoder(iotest.OneByteReader(strings.NewReader(`{"a":1}{"b":2}{"c":3}`)), 64)
	first, err := d.next()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := d.next(); err != nil {
			t.Fatal(err)
		}
	}
	if string(first) != `{"a":1}` {
		t.Errorf("first message became %q", first)
	}
}

type emptyReader struct{}

func (emptyReader) Read([]byte) (int, error) { return 0, nil }

func TestDecoderDoesNotSpin(t *testing.T) {
	if _, err := newDecoder(emptyReader{}, 64).next(); err != io.ErrNoProgress {
		t.Errorf("got %v, want io.ErrNoProgress", err)
	}
}

// FuzzDecoder compares the decoder with encoding/json's own on any input: as long
// as the latter finds objects, we must find the same, however the bytes arrive.
func FuzzDecoder(f *testing.F) {
	for _, s := range []string{
		`{"QMP":{"version":{},"capabilities":["oob"]}}` + "\r\n" + `{"return":{}}`,
		`{"a":"\\"}{"b":"\""}`, "{]", "{}[]", `{"a":[{"b":"}"}]} {`, "\xff",
	} {
		f.Add([]byte(s), 64)
	}
	f.Fuzz(func(t *testing.T, in []byte, limit int) {
		limit = max(8, min(limit, 1<<16))
		whole, wholeErr := decodeAll(bytes.NewReader(in), limit)
		pieces, piecesErr := decodeAll(iotest.OneByteReader(bytes.NewReader(in)), limit)
		if fmt.Sprint(whole) != fmt.Sprint(pieces) || (wholeErr == io.EOF) != (piecesErr == io.EOF) {
			t.Fatalf("whole %q %v, in pieces %q %v", whole, wholeErr, pieces, piecesErr)
		}
		ref := json.NewDecoder(bytes.NewReader(in))
		for i := 0; ; i++ {
			var raw json.RawMessage
			if ref.Decode(&raw) != nil || raw[0] != '{' || len(raw) > limit {
				return
			}
			if i >= len(whole) || whole[i] != string(raw) {
				t.Fatalf("message %d: want %q, got %q", i, raw, whole)
			}
		}
	})
}

// FuzzParseMessage: any bytes are either one of the four kinds or an error.
func FuzzParseMessage(f *testing.F) {
	for _, s := range []string{
		`{"return":null,"id":1}`, `{"error":{"class":"a","desc":"b"}}`, `{"event":"STOP","timestamp":{"seconds":-1}}`,
		`{"QMP":{}}`, `{"return":1,"event":"a"}`, `{}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		m, k, err := parseMessage(in)
		if (err == nil) != (k != 0) {
			t.Fatalf("kind %d with error %v", k, err)
		}
		if k == kindEvent {
			_ = m.Timestamp.time()
		}
	})
}
