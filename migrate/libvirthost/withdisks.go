package libvirthost

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/digitalocean/go-libvirt"

	"github.com/vmmigrate/vmmigrate/migrate"
)

var _ migrate.DiskMapper = (*Host)(nil)

// MapDisks gives the parameters the descriptions of the guest that Params.Disks asks for: the running guest's, and the one to
// define with Params.Persistent. Where the user gave one of his own it is left as it is; it then has to say the same.
func (h *Host) MapDisks(ctx context.Context, name string, p migrate.Params) (migrate.Params, error) {
	const op = "give the disks another place"
	if len(p.Disks) == 0 {
		return p, nil
	}
	if p.DestinationXML != "" {
		return p, migrate.Fail(op, migrate.SideCoordinator, agrees(p.DestinationXML, p), "leave out --xml or --disk")
	}
	d, err := h.lookup(ctx, name)
	if err != nil {
		return p, migrate.Fail(op, migrate.SideSource, err, "")
	}
	read := func(more libvirt.DomainXMLFlags) (string, error) {
		return slowLook(ctx, h.c, func(l *libvirt.Libvirt) (string, error) {
			return l.DomainGetXMLDesc(d, libvirt.DomainXMLMigratable|libvirt.DomainXMLSecure|more)
		})
	}
	text, err := read(0)
	if err != nil {
		return p, stepFail(op, migrate.SideSource, err)
	}
	if p.DestinationXML, err = WithDisks(text, p.Disks); err != nil {
		return p, migrate.Fail(op, migrate.SideSource, err, "correct --disk, or give the whole description with --xml")
	}
	if !p.Persistent || p.PersistentXML != "" {
		return p, nil
	}
	if text, err = read(libvirt.DomainXMLInactive); err != nil {
		return p, stepFail(op, migrate.SideSource, err)
	}
	if p.PersistentXML, err = WithDisks(text, known(text, p.Disks, mapTarget)); err != nil {
		return p, migrate.Fail(op, migrate.SideSource, err, "give the definition with --persistent-xml")
	}
	return p, nil
}

// agrees makes sure that the user's own description has the disks where he wants them.
func agrees(text string, p migrate.Params) error {
	f, err := FactsOf(text)
	if err != nil {
		return err
	}
	for _, m := range p.Disks {
		i := slices.IndexFunc(f.Disks, func(d migrate.Disk) bool { return d.Target == m.Target })
		switch {
		case i < 0:
			return fmt.Errorf("the given XML has no disk %s", m.Target)
		case f.Disks[i].Path != m.Path, m.Format != "" && f.Disks[i].Format != m.Format:
			return fmt.Errorf("the given XML has disk %s as %s (%s)", m.Target, f.Disks[i].Path, f.Disks[i].Format)
		}
	}
	return nil
}

// known leaves out disks that a definition lacks: they were plugged into the running guest.
func known[W any](text string, disks []W, target func(W) string) []W {
	f, err := FactsOf(text)
	if err != nil {
		return disks // WithDisks says what is wrong
	}
	return slices.DeleteFunc(slices.Clone(disks), func(w W) bool {
		return !slices.ContainsFunc(f.Disks, func(d migrate.Disk) bool { return d.Target == target(w) })
	})
}

// WithDisks gives disks in the XML of a domain another source. What lay below it (backingStore) is dropped: libvirt then
// reads it from the image itself. Everything else of the XML is kept to the letter.
func WithDisks(text string, disks []migrate.DiskMap) (string, error) {
	return editDisks(text, disks, mapTarget, diskPlace.edits)
}

func mapTarget(m migrate.DiskMap) string { return m.Target }

// editDisks makes the edits that each wish asks for where the XML has its disk.
func editDisks[W any](text string, wishes []W, target func(W) string, edits func(diskPlace, W) []edit) (string, error) {
	found, err := findDisks(text)
	if err != nil {
		return "", err
	}
	var all []edit
	for _, w := range wishes {
		i := slices.IndexFunc(found, func(d diskPlace) bool { return d.target == target(w) })
		if i < 0 {
			return "", fmt.Errorf("the guest has no disk %s", target(w))
		}
		if found[i].encrypted {
			return "", fmt.Errorf("disk %s is encrypted, and its secret belongs to the image that it has: %w", target(w), migrate.ErrNotSupported)
		}
		all = append(all, edits(found[i], w)...)
	}
	slices.SortFunc(all, func(a, b edit) int { return b.start - a.start })
	for _, e := range all { // from the end, so that places stay true
		text = text[:e.start] + e.text + text[e.end:]
	}
	return text, nil
}

// edit replaces what lies from start to end.
type edit struct {
	start, end int
	text       string
}

// span is a place in a text, in bytes; none if end is 0.
type span struct{ start, end int }

// tag is an element's beginning.
type tag struct {
	span
	el     xml.StartElement
	closed bool // it is its own end
}

// diskPlace is where the XML has a disk.
type diskPlace struct {
	target       string
	encrypted    bool
	tag, driver  tag
	source       span // the whole element
	backingStore []span
}

func (d diskPlace) edits(m migrate.DiskMap) []edit {
	kind, attr := "file", "file"
	if m.Device() {
		kind, attr = "block", "dev"
	}
	out := []edit{{d.tag.start, d.tag.end, d.tag.with("type", kind)}}
	source := "<source " + attr + "='" + escaped(m.Path) + "'/>"
	if d.source.end > 0 {
		out = append(out, edit{d.source.start, d.source.end, source})
		source = ""
	}
	if d.driver.end == 0 && m.Format != "" {
		source += "<driver name='qemu' type='" + m.Format + "'/>"
	}
	if source != "" {
		out[0].text += source
	}
	if d.driver.end > 0 && m.Format != "" {
		out = append(out, edit{d.driver.start, d.driver.end, d.driver.with("type", m.Format)})
	}
	for _, b := range d.backingStore {
		out = append(out, edit{b.start, b.end, ""})
	}
	return out
}

// with writes the tag with one attribute of that value. Elements of disks have no prefixes.
func (t tag) with(name, value string) string {
	var b strings.Builder
	b.WriteString("<" + t.el.Name.Local)
	set := false
	for _, a := range t.el.Attr {
		if a.Name.Local == name {
			a.Value, set = value, true
		}
		b.WriteString(" " + a.Name.Local + "='" + escaped(a.Value) + "'")
	}
	if !set {
		b.WriteString(" " + name + "='" + escaped(value) + "'")
	}
	if t.closed {
		b.WriteString("/")
	}
	b.WriteString(">")
	return b.String()
}

func escaped(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a Builder takes everything
	return b.String()
}

// findDisks reads the XML of a domain.
func findDisks(text string) ([]diskPlace, error) {
	dec := xml.NewDecoder(strings.NewReader(text))
	var path []string
	var starts []int
	var disks []diskPlace
	root := false
	for {
		before := int(dec.InputOffset())
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) && len(path) == 0 && root {
			return disks, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the domain's XML: %w", err)
		}
		after := int(dec.InputOffset())
		switch t := tok.(type) {
		case xml.StartElement:
			path, starts, root = append(path, t.Name.Local), append(starts, before), true
			if !slices.Equal(path[:min(len(path), 3)], []string{"domain", "devices", "disk"}) {
				continue
			}
			if len(path) == 3 {
				disks = append(disks, diskPlace{})
			}
			disks[len(disks)-1].enter(path, tag{span{before, after}, t.Copy(), strings.HasSuffix(text[before:after], "/>")})
		case xml.EndElement:
			if len(path) == 4 && path[1] == "devices" && path[2] == "disk" && path[0] == "domain" {
				disks[len(disks)-1].leave(path[3], span{starts[3], after})
			}
			path, starts = path[:len(path)-1], starts[:len(starts)-1]
		}
	}
}

// enter takes the beginning of an element within a disk, or the disk's own.
func (d *diskPlace) enter(path []string, t tag) {
	switch {
	case len(path) == 3:
		d.tag = t
	case path[3] == "encryption" && len(path) == 4, path[3] == "source" && len(path) == 5 && path[4] == "encryption":
		d.encrypted = true
	case len(path) == 4 && path[3] == "driver":
		d.driver = t
	case len(path) == 4 && path[3] == "target":
		for _, a := range t.el.Attr {
			if a.Name.Local == "dev" {
				d.target = a.Value
			}
		}
	}
}

// leave takes the end of an element directly within the disk.
func (d *diskPlace) leave(name string, whole span) {
	switch name {
	case "source":
		d.source = whole
	case "backingStore":
		d.backingStore = append(d.backingStore, whole)
	}
}
