package sys

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// Map is one mapping of a process, as /proc/PID/maps tells it.
type Map struct {
	// Start is the first address, End the first one behind.
	Start, End uint64
	// Perms are four letters, such as rw-s: read, write, execute, and s(hared) or p(rivate).
	Perms string
	// Offset is where in the file the mapping starts, in bytes.
	Offset uint64
	// Device and Inode name the file, as in FileInfo; both are zero for memory without one.
	Device, Inode uint64
	// Path is the file's, with " (deleted)" behind it if it has none any more, or a name in brackets, or nothing. An
	// untrusted process chooses it freely.
	Path string
}

// Shared tells that writes reach the file, and other mappings of it.
func (m Map) Shared() bool { return len(m.Perms) == 4 && m.Perms[3] == 's' }

// parseMaps reads /proc/PID/maps.
func parseMaps(text []byte) ([]Map, error) {
	var out []Map
	for line := range bytes.Lines(text) {
		m, err := parseMap(string(bytes.TrimSuffix(line, []byte("\n"))))
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

// parseMap reads one line: start-end perms offset major:minor inode, spaces, path.
func parseMap(line string) (Map, error) {
	fields := strings.SplitN(line, " ", 6)
	if len(fields) < 5 {
		return Map{}, fmt.Errorf("memory map: a line with %d fields: %q", len(fields), line)
	}
	from, to, ok1 := strings.Cut(fields[0], "-")
	major, minor, ok2 := strings.Cut(fields[3], ":")
	if !ok1 || !ok2 || len(fields[1]) != 4 {
		return Map{}, fmt.Errorf("memory map: %q is no mapping", line)
	}
	m := Map{Perms: fields[1]}
	var device [2]uint64
	for _, f := range []struct {
		text string
		base int
		bits int
		to   *uint64
	}{
		{from, 16, 64, &m.Start}, {to, 16, 64, &m.End}, {fields[2], 16, 64, &m.Offset},
		{major, 16, 32, &device[0]}, {minor, 16, 32, &device[1]}, {fields[4], 10, 64, &m.Inode},
	} {
		v, err := strconv.ParseUint(f.text, f.base, f.bits)
		if err != nil {
			return Map{}, fmt.Errorf("memory map: %q: %w", line, err)
		}
		*f.to = v
	}
	m.Device = makeDevice(device[0], device[1])
	if len(fields) == 6 {
		m.Path = strings.TrimLeft(fields[5], " ")
	}
	return m, nil
}

// makeDevice joins a major and a minor number as stat(2) does.
func makeDevice(major, minor uint64) uint64 {
	return minor&0xff | major&0xfff<<8 | minor&^0xff<<12 | major&^0xfff<<32
}
