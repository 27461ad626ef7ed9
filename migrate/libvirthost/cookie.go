package libvirthost

import (
	"bytes"
	"encoding/xml"
	"fmt"
)

// cookie is what an early Finish has to tell libvirt of the source: who it is, and that disks were copied. The names are
// those of libvirt's migration cookie; all else in it is left out, since Finish refuses what it does not expect there.
type cookie struct {
	XMLName  xml.Name  `xml:"qemu-migration"`
	Name     string    `xml:"name"`
	UUID     string    `xml:"uuid"`
	Hostname string    `xml:"hostname"`
	HostUUID string    `xml:"hostuuid"`
	NBD      *struct{} `xml:"nbd"`
}

// earlyCookie makes Finish's cookie from Begin's. Perform's would be the right one and is not there yet. Without the word
// on the disks libvirt leaves their NBD server running at the destination, with their images open for writing, and the
// guest cannot be migrated away again.
func earlyCookie(begin []byte) ([]byte, error) {
	var c cookie
	if err := xml.Unmarshal(bytes.TrimRight(begin, "\x00"), &c); err != nil {
		return nil, fmt.Errorf("libvirt's cookie cannot be read: %w", err)
	}
	out, err := xml.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("write libvirt's cookie: %w", err)
	}
	return append(out, 0), nil // libvirt's cookies end with a NUL
}
