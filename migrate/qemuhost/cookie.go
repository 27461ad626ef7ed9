package qemuhost

import (
	"encoding/json"
	"fmt"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// cookieVersion is refused by a driver that does not know it: what it does not understand it must not act upon.
const cookieVersion = 1

// maxCookie bounds what is read of an offer or a ticket, in bytes.
const maxCookie = 4 << 20

// offerCookie is what a source remembers of itself in Offer.Cookie, so that any later process can undo.
type offerCookie struct {
	Version int `json:"version"`
	// Live tells that the guest ran when the migration began.
	Live bool `json:"live"`
	// Saved are the settings to restore.
	Saved settings `json:"saved"`
	// Ack tells that the source knows switchover-ack.
	Ack bool `json:"ack,omitempty"`
}

// ticketCookie is what a destination tells the source, and remembers of itself, in Ticket.Cookie.
type ticketCookie struct {
	Version int      `json:"version"`
	Saved   settings `json:"saved"`
	// Ack tells that both ends know switchover-ack, TLS that the links are encrypted.
	Ack bool `json:"ack,omitempty"`
	TLS bool `json:"tls,omitempty"`
	// NBD is where the disks are written to, Disks the exports, by target.
	NBD   *qmp.SocketAddress `json:"nbd,omitempty"`
	Disks []string           `json:"disks,omitempty"`
	// Live is Perform's addition: whether the guest ran when it was stopped for the switch. Nil before.
	Live *bool `json:"live,omitempty"`
}

func readOffer(o migrate.Offer) (offerCookie, error) {
	var c offerCookie
	err := readCookie(o.Cookie, &c, &c.Version)
	return c, err
}

func readTicket(t migrate.Ticket) (ticketCookie, error) {
	var c ticketCookie
	err := readCookie(t.Cookie, &c, &c.Version)
	return c, err
}

func readCookie(b []byte, v any, version *int) error {
	if len(b) > maxCookie {
		return fmt.Errorf("a cookie of %d bytes, more than %d", len(b), maxCookie)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("a cookie that is not a bare QEMU's: %w", err)
	}
	if *version != cookieVersion {
		return fmt.Errorf("a cookie of version %d, this driver knows %d", *version, cookieVersion)
	}
	return nil
}
