// Package logtail reads the end of a log, to be put into an error: what a program
// said last is mostly why it failed, and the log itself may be gone when somebody
// reads the error.
package logtail

import (
	"errors"
	"io"
	"os"
	"strings"
)

// maxBytes and maxLines bound what is read.
const (
	maxBytes = 4 << 10
	maxLines = 5
)

// Read returns the last lines of the log in one, or "" if there is nothing to read.
func Read(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	whole := false
	if _, err := f.Seek(-maxBytes, io.SeekEnd); err != nil {
		whole = true // shorter than that; still at the start
	}
	data, err := io.ReadAll(io.LimitReader(f, maxBytes))
	if err != nil && !errors.Is(err, io.EOF) {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	if !whole && len(lines) > 1 {
		lines = lines[1:] // the first is most likely a part of one
	}
	return strings.Join(lines[max(0, len(lines)-maxLines):], "; ")
}
