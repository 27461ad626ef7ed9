package libvirthost

import (
	"cmp"
	"encoding/xml"
	"slices"
	"strconv"
	"strings"

	"github.com/vmmigrate/vmmigrate/migrate"
)

var _ migrate.Overlayer = (*Host)(nil)

// waitForServer is how long QEMU lets requests wait for an NBD server that is gone, in seconds: a guest waits rather than see an
// error.
const waitForServer = 30 * 24 * 3600

// OnOverlays implements migrate.Overlayer: the guest's description gets the overlays, with the exports below them. So does the
// definition that it leaves: a guest that ends before its disks are whole must not be started on what is there of them. libvirt
// puts the final image into both when a disk is folded.
func (h *Host) OnOverlays(o migrate.Offer, p migrate.Params, overlays []migrate.Overlay) (migrate.Params, error) {
	text := p.DestinationXML
	if text == "" {
		text = o.XML
	}
	var err error
	p.DestinationXML, err = WithOverlays(text, overlays)
	if err == nil && p.Persistent {
		p.PersistentXML, err = definedOnOverlays(cmp.Or(p.PersistentXML, o.Definition), overlays)
	}
	return p, migrate.Fail("start the guest on overlays", migrate.SideDestination, err, "copy the disks before: --copy-storage-all")
}

// definedOnOverlays leaves out disks that a definition lacks: they were plugged into the running guest.
func definedOnOverlays(text string, overlays []migrate.Overlay) (string, error) {
	return editDisks(text, known(text, overlays, overlayTarget), overlayTarget, diskPlace.onOverlay)
}

// WithOverlays puts disks of a domain onto overlays. Everything else of the XML is kept to the letter, but that discarded
// blocks are given back: without it libvirt would fill a raw image up with zeros.
func WithOverlays(text string, overlays []migrate.Overlay) (string, error) {
	return editDisks(text, overlays, overlayTarget, func(d diskPlace, o migrate.Overlay) []edit { return d.discarding(d.onOverlay(o)) })
}

func overlayTarget(o migrate.Overlay) string { return o.Target }

func (d diskPlace) onOverlay(o migrate.Overlay) []edit {
	edits := d.edits(migrate.DiskMap{Target: o.Target, Path: o.Path, Format: "qcow2"})
	below := "<backingStore type='network'><format type='raw'/><source protocol='nbd' name='" + escaped(o.Target) + "'>" +
		"<host transport='unix' socket='" + escaped(o.Socket) + "'/><reconnect delay='" + strconv.Itoa(waitForServer) + "'/></source>" +
		"<backingStore/></backingStore>"
	for i, e := range edits {
		if strings.Contains(e.text, "<source ") {
			edits[i].text += below
		}
	}
	return edits
}

// discarding adds to edits of onOverlay that blocks which the guest discards are given back.
func (d diskPlace) discarding(edits []edit) []edit {
	for i, e := range edits {
		switch {
		case d.driver.end > 0 && e.start == d.driver.start:
			t := d.driver
			t.el.Attr = append(slices.DeleteFunc(slices.Clone(t.el.Attr), func(a xml.Attr) bool { return a.Name.Local == "type" }),
				xml.Attr{Name: xml.Name{Local: "type"}, Value: "qcow2"})
			edits[i].text = t.with("discard", "unmap")
		case d.driver.end == 0 && strings.Contains(e.text, "<driver "):
			edits[i].text = strings.Replace(e.text, "type='qcow2'/>", "type='qcow2' discard='unmap'/>", 1)
		}
	}
	return edits
}
