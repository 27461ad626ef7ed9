package libvirthost

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// qemuNS is the namespace of libvirt's elements that go to QEMU as they are.
const qemuNS = "http://libvirt.org/schemas/domain/qemu/1.0"

// monitorID is the name of our monitor's socket in QEMU.
const monitorID = "vmmigrate-monitor"

// maxSocketPath is the longest path of a unix socket, in bytes.
const maxSocketPath = 107

// WithMonitor gives the XML of a domain a monitor of its own beside libvirt's, for nobody but us: libvirt lets no command
// through to a QEMU that is taking a guest in. It tells at which path the monitor will be. A monitor that a former
// migration left in the XML is moved to path instead of being joined by another; with an empty path it is left as it is,
// and told, or nothing is if there is none.
//
// Everything else of the XML is kept to the letter, other arguments for QEMU included.
func WithMonitor(text, path string) (out, at string, err error) {
	if path != "" && (!filepath.IsAbs(path) || len(path) > maxSocketPath || strings.ContainsAny(path, ",\x00\n")) {
		return "", "", fmt.Errorf("%q is no path for a monitor's socket", path)
	}
	a, err := findArguments(text)
	if err != nil {
		return "", "", err
	}
	if i := slices.IndexFunc(a.args, func(g argument) bool { return isOurs(g.value) }); i >= 0 {
		g := a.args[i]
		if path == "" {
			return text, pathOf(g.value), nil
		}
		return text[:g.start] + asArgument(chardev(path)) + text[g.end:], path, nil
	}
	if path == "" {
		return text, "", nil
	}
	own := asArgument("-chardev") + asArgument(chardev(path)) + asArgument("-mon") + asArgument("chardev="+monitorID+",mode=control")
	switch {
	case a.end == 0:
		return text[:a.rootEnd] + "<qemu:commandline xmlns:qemu='" + qemuNS + "'>" + own + "</qemu:commandline>" + text[a.rootEnd:], path, nil
	case a.empty:
		return text[:a.start] + "<qemu:commandline xmlns:qemu='" + qemuNS + "'>" + own + "</qemu:commandline>" + text[a.end:], path, nil
	}
	return text[:a.end] + own + text[a.end:], path, nil
}

func chardev(path string) string {
	return "socket,id=" + monitorID + ",path=" + path + ",server=on,wait=off"
}

// asArgument is one argument for QEMU; it brings its namespace along, since the XML may have another prefix for it.
func asArgument(value string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(value)) // a Builder takes everything
	return "<qemu:arg xmlns:qemu='" + qemuNS + "' value='" + b.String() + "'/>"
}

var ourID = regexp.MustCompile(`(^|,)id=` + regexp.QuoteMeta(monitorID) + `(,|$)`)

func isOurs(value string) bool { return ourID.MatchString(value) }

func pathOf(value string) string {
	for field := range strings.SplitSeq(value, ",") {
		if p, ok := strings.CutPrefix(field, "path="); ok {
			return p
		}
	}
	return ""
}

// arguments are where the XML has its arguments for QEMU, in bytes.
type arguments struct {
	// rootEnd is where the domain's closing tag begins.
	rootEnd int
	// start is where the element with the arguments begins, end where its closing tag does; zero if there is none. One
	// that has no closing tag is empty, and end is behind it.
	start, end int
	empty      bool
	args       []argument
}

// argument is one of them: its place in the text, and its value.
type argument struct {
	start, end int
	value      string
}

// findArguments reads the XML of a domain.
func findArguments(text string) (arguments, error) {
	var a arguments
	dec := xml.NewDecoder(strings.NewReader(text))
	var path []xml.Name
	for {
		before := int(dec.InputOffset())
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) && a.rootEnd > 0 {
			return a, nil
		}
		if err != nil {
			return a, fmt.Errorf("read the domain's XML: %w", err)
		}
		after := int(dec.InputOffset())
		switch t := tok.(type) {
		case xml.StartElement:
			path = append(path, t.Name)
			if len(path) == 1 && t.Name.Local != "domain" {
				return a, fmt.Errorf("read the domain's XML: it is a %s", t.Name.Local)
			}
			if len(path) == 1 && strings.HasSuffix(text[before:after], "/>") {
				return a, errors.New("read the domain's XML: it is empty")
			}
			a.enter(path, t, text, before, after)
		case xml.EndElement:
			a.leave(path, before, after)
			path = path[:len(path)-1]
		}
	}
}

var commandline = xml.Name{Space: qemuNS, Local: "commandline"}

// enter takes the beginning of an element, which lies from before to after.
func (a *arguments) enter(path []xml.Name, t xml.StartElement, text string, before, after int) {
	closed := strings.HasSuffix(text[before:after], "/>")
	switch {
	case len(path) == 2 && t.Name == commandline && a.end == 0:
		a.start = before
		if closed {
			a.empty, a.end = true, after
		}
	case len(path) == 3 && path[1] == commandline && t.Name == xml.Name{Space: qemuNS, Local: "arg"}:
		g := argument{start: before, end: after}
		for _, at := range t.Attr {
			if at.Name.Local == "value" {
				g.value = at.Value
			}
		}
		a.args = append(a.args, g)
	}
}

// leave takes the end of the innermost element, whose closing tag lies from before to after; one without has both alike.
func (a *arguments) leave(path []xml.Name, before, after int) {
	switch {
	case len(path) == 1:
		a.rootEnd = before
	case len(path) == 2 && path[1] == commandline && a.end == 0:
		a.end = before
	case len(path) == 3 && path[1] == commandline && path[2].Local == "arg" && len(a.args) > 0:
		a.args[len(a.args)-1].end = after
	}
}
