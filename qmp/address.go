package qmp

import (
	"encoding/json"
	"fmt"
	"net"
)

// Socket address types.
const (
	AddressInet  = "inet"
	AddressUnix  = "unix"
	AddressVsock = "vsock"
	AddressFD    = "fd"
)

// SocketAddress is QEMU's address of a socket. Which fields count depends on
// Type: Host and Port for inet, Path for unix, CID and Port for vsock, FD (a name
// given by getfd, or a number) for fd.
type SocketAddress struct {
	Type string `json:"type"`           // one of the Address constants
	Host string `json:"host,omitempty"` // name or address, without brackets
	Port string `json:"port,omitempty"` // number or service name
	Path string `json:"path,omitempty"` // file name
	CID  string `json:"cid,omitempty"`  // number of the machine
	FD   string `json:"str,omitempty"`  // name given by getfd, or a number
}

// InetAddress is a TCP address. Port "0" lets QEMU choose when it listens.
func InetAddress(host, port string) SocketAddress {
	return SocketAddress{Type: AddressInet, Host: host, Port: port}
}

// UnixAddress is the address of a unix socket.
func UnixAddress(path string) SocketAddress { return SocketAddress{Type: AddressUnix, Path: path} }

// FDAddress is the address of a socket that getfd has named.
func FDAddress(name string) SocketAddress { return SocketAddress{Type: AddressFD, FD: name} }

// String gives the address as a migration URI, such as tcp:host:port.
func (a SocketAddress) String() string {
	switch a.Type {
	case AddressInet:
		return "tcp:" + net.JoinHostPort(a.Host, a.Port)
	case AddressUnix:
		return "unix:" + a.Path
	case AddressVsock:
		return "vsock:" + a.CID + ":" + a.Port
	case AddressFD:
		return "fd:" + a.FD
	}
	return fmt.Sprintf("%s:?", a.Type)
}

// plainAddress is SocketAddress with encoding/json's own rules.
type plainAddress SocketAddress

// legacyAddress is the older form of an address, with its fields one level down,
// which nbd-server-start demands.
type legacyAddress struct {
	Type string          `json:"type"`
	Data json.RawMessage `json:"data"`
}

// legacy gives the older form.
func (a SocketAddress) legacy() (legacyAddress, error) {
	data := plainAddress(a)
	data.Type = ""
	b, err := json.Marshal(struct {
		Type string `json:"type,omitempty"` // shadows the required one
		plainAddress
	}{plainAddress: data})
	return legacyAddress{Type: a.Type, Data: b}, err
}
