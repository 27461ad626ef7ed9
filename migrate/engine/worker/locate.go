package worker

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
)

// locate finds where a QEMU has mapped its RAM blocks without asking it: one whose main loop waits for a page that is
// missing answers nobody. Its command line names the file, or the folder, behind each memory backend, and a block is named
// after its backend. Regions whose address is known are left alone; one that is not found stays without.
func locate(pid int, regions []agent.Region) error {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return err
	}
	maps, err := sys.Maps(pid)
	if err != nil {
		return err
	}
	files := backendFiles(raw)
	for i, r := range regions {
		if r.Addr == 0 {
			regions[i].Addr = mappedAt(maps, path.Base(r.Name), files[path.Base(r.Name)], uint64(r.Size))
		}
	}
	return nil
}

// backendFiles reads from a QEMU's command line the paths behind its memory backends, by their names. QEMU takes an object
// as JSON, and as key=value pairs in which a comma is doubled.
func backendFiles(cmdline []byte) map[string]string {
	files := map[string]string{}
	args := bytes.Split(cmdline, []byte{0})
	for i := 1; i < len(args); i++ {
		if string(args[i-1]) != "-object" {
			continue
		}
		var o struct {
			Type string `json:"qom-type"`
			ID   string `json:"id"`
			Path string `json:"mem-path"`
		}
		if json.Unmarshal(args[i], &o) != nil {
			text := strings.ReplaceAll(string(args[i]), ",,", "\x00")
			for n, pair := range strings.Split(text, ",") {
				key, value, ok := strings.Cut(strings.ReplaceAll(pair, "\x00", ","), "=")
				switch {
				case n == 0 && !ok:
					o.Type = key
				case key == "qom-type":
					o.Type = value
				case key == "id":
					o.ID = value
				case key == "mem-path":
					o.Path = value
				}
			}
		}
		if o.Type == "memory-backend-file" && o.ID != "" && o.Path != "" {
			files[o.ID] = o.Path
		}
	}
	return files
}

// mappedAt gives the start of the one run of shared mappings that holds a backend's file whole; 0 if there is none, or more
// than one. Where the backend has a folder QEMU makes a file in it with the backend's name in its own.
func mappedAt(maps []sys.Map, id, file string, size uint64) uint64 {
	if file == "" {
		return 0
	}
	at, found, inode := uint64(0), 0, uint64(0)
	for i := 0; i < len(maps); i++ {
		name := strings.TrimSuffix(maps[i].Path, " (deleted)")
		inside := path.Dir(name) == path.Clean(file) && strings.Contains(path.Base(name), id+".")
		if !maps[i].Shared() || maps[i].Offset != 0 || name != path.Clean(file) && !inside {
			continue
		}
		start, end := maps[i].Start, maps[i].End
		for inode = maps[i].Inode; i+1 < len(maps) && maps[i+1].Start == end && maps[i+1].Inode == inode; i++ {
			end = maps[i+1].End
		}
		if end-start >= size {
			at, found = start, found+1
		}
	}
	if found != 1 {
		return 0
	}
	return at
}
