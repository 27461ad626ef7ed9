package check

import (
	"encoding/xml"
	"fmt"
	"strings"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// domainXML is what concerns us of a domain's XML.
type domainXML struct {
	XMLName xml.Name `xml:"domain"`
	Name    string   `xml:"name"`
	OS      struct {
		Type struct {
			Machine string `xml:"machine,attr"`
			Arch    string `xml:"arch,attr"`
		} `xml:"type"`
	} `xml:"os"`
	CPU      *struct{} `xml:"cpu"`
	Features struct {
		KVM struct {
			Ring struct {
				State string `xml:"state,attr"`
				Size  int    `xml:"size,attr"`
			} `xml:"dirty-ring"`
		} `xml:"kvm"`
	} `xml:"features"`
	Devices struct {
		Emulator string `xml:"emulator"`
		Disks    []struct {
			Source struct {
				File string `xml:"file,attr"`
				Dev  string `xml:"dev,attr"`
			} `xml:"source"`
			Target struct {
				Dev string `xml:"dev,attr"`
			} `xml:"target"`
			Driver struct {
				Type string `xml:"type,attr"`
			} `xml:"driver"`
		} `xml:"disk"`
		Interfaces []struct {
			Type string `xml:"type,attr"`
			MAC  struct {
				Address string `xml:"address,attr"`
			} `xml:"mac"`
			Source struct {
				Bridge  string `xml:"bridge,attr"`
				Network string `xml:"network,attr"`
				Dev     string `xml:"dev,attr"`
			} `xml:"source"`
		} `xml:"interface"`
		Balloons []struct {
			Reporting string `xml:"freePageReporting,attr"`
		} `xml:"memballoon"`
		TPMs []struct {
			Backend struct {
				Type string `xml:"type,attr"`
			} `xml:"backend"`
		} `xml:"tpm"`
	} `xml:"devices"`
}

func parseDomainXML(text string) (domainXML, error) {
	var d domainXML
	if err := xml.Unmarshal([]byte(text), &d); err != nil {
		return d, fmt.Errorf("domain XML: %w", err)
	}
	return d, nil
}

// archOf gives the architecture of the guest, or "".
func archOf(text string) string {
	d, err := parseDomainXML(text)
	if err != nil {
		return ""
	}
	return d.OS.Type.Arch
}

// tpmBackend names what stands behind the guest's TPM, or "".
func tpmBackend(text string) string {
	d, err := parseDomainXML(text)
	if err != nil || len(d.Devices.TPMs) == 0 {
		return ""
	}
	return d.Devices.TPMs[0].Backend.Type
}

// dirtyRing is how many entries KVM's dirty ring has, or 0 if there is none.
func dirtyRing(text string) int {
	d, err := parseDomainXML(text)
	if err != nil || d.Features.KVM.Ring.State != "on" {
		return 0
	}
	return d.Features.KVM.Ring.Size
}

// reportsFreePages tells whether the guest gives pages back as soon as they are free.
func reportsFreePages(text string) bool {
	d, err := parseDomainXML(text)
	return err == nil && len(d.Devices.Balloons) > 0 && d.Devices.Balloons[0].Reporting == "on"
}

// overlay gives the guest as text, the XML for the destination, makes it. What libvirt would not let the two differ in
// is taken from the guest.
func overlay(g migrate.DomainFacts, text string) (migrate.DomainFacts, error) {
	d, err := parseDomainXML(text)
	if err != nil {
		return g, err
	}
	g.XML, g.CPU = text, element(text, "cpu")
	if m := d.OS.Type.Machine; m != "" {
		g.Machine = m
	}
	if e := strings.TrimSpace(d.Devices.Emulator); e != "" {
		g.Emulator = e
	}
	disks := make([]migrate.Disk, len(g.Disks))
	copy(disks, g.Disks)
	for i := range disks {
		for _, x := range d.Devices.Disks {
			if x.Target.Dev != disks[i].Target {
				continue
			}
			if p := x.Source.File + x.Source.Dev; p != "" || disks[i].CDROM {
				disks[i].Path = p
			}
			if x.Driver.Type != "" {
				disks[i].Format = x.Driver.Type
			}
		}
	}
	g.Disks, g.NICs = disks, nics(d, g.NICs)
	return g, nil
}

// nics gives the network cards of the XML; those that it does not plug anywhere stay as they were.
func nics(d domainXML, old []migrate.NIC) []migrate.NIC {
	out := make([]migrate.NIC, len(old))
	copy(out, old)
	for i := range out {
		for _, x := range d.Devices.Interfaces {
			if !strings.EqualFold(x.MAC.Address, out[i].MAC) {
				continue
			}
			out[i].Kind = x.Type
			switch x.Type {
			case "bridge":
				out[i].Source = x.Source.Bridge
			case "network":
				out[i].Source = x.Source.Network
			default:
				out[i].Source = x.Source.Dev
			}
		}
	}
	return out
}

// element cuts the first element of that name below the root out of text, as it is written; "" if there is none.
func element(text, name string) string {
	dec := xml.NewDecoder(strings.NewReader(text))
	depth := 0
	for {
		start := dec.InputOffset()
		tok, err := dec.Token()
		if err != nil {
			return ""
		}
		switch t := tok.(type) {
		case xml.StartElement:
			depth++
			if depth == 2 && t.Name.Local == name {
				if dec.Skip() != nil {
					return ""
				}
				return text[start:dec.InputOffset()]
			}
		case xml.EndElement:
			depth--
		}
	}
}
