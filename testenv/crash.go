package testenv

import (
	"fmt"
	"os"
	"regexp"
	"strings"
)

// crashed finds what a kernel says that goes no further.
var crashed = regexp.MustCompile(`BUG: |Oops: |Kernel panic|general protection fault`)

// crash is what the guest's kernel said on a host's console as it crashed, or empty.
// A guest that does not answer is most often waited for until the wait's end, and
// why is only written there.
func (g *Guest) crash() string {
	for _, h := range g.lab.Hosts() {
		console, err := os.ReadFile(g.Console(h))
		if err != nil {
			continue // it never ran there
		}
		if words := crashWords(string(console)); words != "" {
			return fmt.Sprintf("its kernel crashed on host %s: %s", h.Name(), words)
		}
	}
	return ""
}

// crashWords are the lines of a console that say how a kernel crashed.
func crashWords(console string) string {
	var found []string
	for line := range strings.Lines(console) {
		if crashed.MatchString(line) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return strings.Join(found, "; ")
}
