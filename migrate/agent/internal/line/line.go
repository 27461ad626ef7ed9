// Package line reads and writes the lines that agents introduce themselves with: one JSON object each, of at most 1 KiB, no
// unknown fields. A line is read byte by byte, so that nothing of what follows it is swallowed. It keeps no state.
package line

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Max bounds a line in bytes, its end included.
const Max = 1024

// ErrForeign: the first byte belongs to no text, as when only one end encrypts.
var ErrForeign = errors.New("it does not speak as an agent does, or only one end encrypts")

// Read reads up to and with the first newline, and not a byte more. It gives the line without it.
func Read(r io.Reader) ([]byte, error) {
	line := make([]byte, 0, 256)
	var b [1]byte
	for len(line) < Max {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return nil, err
		}
		if b[0] == '\n' {
			return line, nil
		}
		if len(line) == 0 && b[0] < ' ' && b[0] != '\r' && b[0] != '\t' {
			return nil, ErrForeign
		}
		line = append(line, b[0])
	}
	return nil, fmt.Errorf("its line is longer than %d bytes", Max)
}

// Write writes v as one line.
func Write(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) >= Max {
		return fmt.Errorf("the line would be longer than %d bytes", Max)
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// Decode reads a line into v and refuses fields that v does not have.
func Decode(line []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("it does not speak as an agent does: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("it does not speak as an agent does: more than one object in a line")
	}
	return nil
}
