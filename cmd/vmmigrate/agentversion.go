package main

import (
	"debug/elf"
	"encoding/hex"
	"strings"
	"sync"
)

// agentVersion is the version by which a coordinator knows whether an agent is exactly its own program: for a build that
// is no release the version alone does not tell, and the linker's identity of the build is added.
var agentVersion = sync.OnceValue(func() string {
	v := buildVersion()
	if v != "unknown" && v != "(devel)" && !strings.HasSuffix(v, "-dirty") {
		return v
	}
	return v + "+" + buildID("/proc/self/exe")
})

// buildID is a short form of what the Go linker notes in a program; "unknown" if there is nothing.
func buildID(file string) string {
	f, err := elf.Open(file)
	if err != nil {
		return "unknown"
	}
	defer f.Close()
	s := f.Section(".note.go.buildid")
	if s == nil || s.Size > 4096 {
		return "unknown"
	}
	note, err := s.Data()
	if err != nil || len(note) < 32 {
		return "unknown"
	}
	// The last 16 bytes are of the hash of the contents, before the note's padding.
	return hex.EncodeToString(note[len(note)-16:])
}
