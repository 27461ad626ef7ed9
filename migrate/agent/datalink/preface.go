package datalink

import (
	"bufio"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate/agent/internal/line"
)

// Role is what a connection is for.
type Role string

// The roles. There is no role in an empty word.
const (
	// Bulk carries pages that nobody waits for.
	Bulk Role = "bulk"
	// Demand carries pages that a vCPU waits for.
	Demand Role = "demand"
	// Stream carries QEMU's own migration stream, both ways.
	Stream Role = "stream"
	// Mirror carries what the source's QEMU writes to one disk, whose number is the index. It is made when QEMU connects
	// (Keeper.Dial), and never again.
	Mirror Role = "mirror"
)

// Version of what is said before the data. Both ends have to have the same.
const Version = 1

// MaxIndex bounds the number of bulk connections, and that of demand, MaxMirrors that of disks.
const (
	MaxIndex   = 64
	MaxMirrors = 256
)

// Defaults of Config.
const (
	DefaultTimeout  = 10 * time.Second
	DefaultPatience = 10 * time.Second
)

// ErrRefused: the other end does not want this connection, and will not want it the next time.
var ErrRefused = errors.New("the other agent refuses the data connection")

// Config is what both ends of a migration's data connections have to agree on.
type Config struct {
	// Migration names the migration; at most 200 bytes.
	Migration string
	// Token is the migration's secret, of 1 to 200 bytes.
	Token string
	// TLS encrypts, and knows the other end's certificate (agent.DataTLS); nil is no encryption.
	TLS *tls.Config
	// Timeout bounds a handshake, from the TCP connection to the answer; 0 is DefaultTimeout.
	Timeout time.Duration
	// Patience is how long a peer may be silent on the TCP level before the connection counts as lost; 0 is DefaultPatience.
	Patience time.Duration
	// Log hears of refused and lost connections; nil is silence.
	Log *slog.Logger
}

func (c Config) check() error {
	switch {
	case c.Migration == "" || len(c.Migration) > 200:
		return errors.New("data connections need the name of a migration of 1 to 200 bytes")
	case c.Token == "" || len(c.Token) > 200:
		return errors.New("data connections need a token of 1 to 200 bytes")
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.Patience == 0 {
		c.Patience = DefaultPatience
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Conn is a data connection whose handshake is over. Close may be called several times.
type Conn struct {
	net.Conn
	Role  Role
	Index int

	once   sync.Once
	err    error
	closed func() // of the Acceptor; may be nil
}

// Below is the connection that this one is made of. That of demand waits in the threads of those who use it, if it is TCP
// (sys.ThreadConn): a busy neighbour must not delay what a vCPU waits for.
func (c *Conn) Below() net.Conn { return c.Conn }

// base is what TLS is put upon. Once the handshake is over, and before anybody uses the connection, it may be exchanged.
type base struct {
	net.Conn
	ahead *bufio.Reader // nil as long as nothing is read ahead
}

// readAhead is how much is read from below TLS at once, which would ask for its records of 16 KiB one by one.
const readAhead = 128 << 10

// Read reads ahead, if that was settled.
func (b *base) Read(p []byte) (int, error) {
	if b.ahead != nil {
		return b.ahead.Read(p)
	}
	return b.Conn.Read(p)
}

// Below is the connection that there is now.
func (b *base) Below() net.Conn { return b.Conn }

// settled gives c, which is b or TLS upon it, for use, and a connection of demand to the threads that use it. After an error
// all is closed.
func (b *base) settled(c net.Conn, r Role, index int) (*Conn, error) {
	if tcp, ok := b.Conn.(*net.TCPConn); ok && r == Demand && runtime.GOOS == "linux" {
		own, err := sys.TakeConn(tcp)
		if err != nil {
			return nil, fmt.Errorf("take the connection from the poller: %w", err)
		}
		b.Conn = own
	}
	switch {
	case c == net.Conn(b):
		c = b.Conn
	case r != Demand: // whose threads wait for what is not read yet
		b.ahead = bufio.NewReaderSize(b.Conn, readAhead)
	}
	return &Conn{Conn: c, Role: r, Index: index}, nil
}

// Close ends the connection.
func (c *Conn) Close() error {
	c.once.Do(func() {
		c.err = c.Conn.Close()
		if c.closed != nil {
			c.closed()
		}
	})
	return c.err
}

// CloseWrite says that nothing more will be sent, so that the peer reads to the end and can still answer. A connection that
// cannot end one direction alone is left as it is.
func (c *Conn) CloseWrite() error {
	if h, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return nil
}

// preface is what the source says first.
type preface struct {
	Version   int    `json:"version"`
	Migration string `json:"migration"`
	Token     string `json:"token"`
	Role      Role   `json:"role"`
	Index     int    `json:"index"`
}

// answer is what the destination says to it: Refused is empty if the connection is welcome.
type answer struct {
	Version int    `json:"version"`
	Refused string `json:"refused"`
}

// most is how many connections of a role there may be; 0 if there is no such role.
func (r Role) most() int {
	switch r {
	case Bulk, Demand:
		return MaxIndex
	case Stream:
		return 1
	case Mirror:
		return MaxMirrors
	}
	return 0
}

// parsePreface reads the source's line. The version is looked at first, since another one may have other fields.
func parsePreface(b []byte) (preface, error) {
	var p preface
	if err := parseLine(b, &p); err != nil {
		return preface{}, err
	}
	if p.Role.most() == 0 {
		return preface{}, fmt.Errorf("role %.20q is not one of bulk, demand, stream, mirror", p.Role)
	}
	if p.Index < 0 || p.Index >= p.Role.most() {
		return preface{}, fmt.Errorf("there is no %s connection number %d", p.Role, p.Index)
	}
	return p, nil
}

// parseLine decodes one line into v, whose version has to be ours.
func parseLine(b []byte, v any) error {
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return fmt.Errorf("it does not speak as an agent does: %w", err)
	}
	if head.Version != Version {
		return fmt.Errorf("the other agent speaks version %d of the data connections, this one version %d", head.Version, Version)
	}
	return line.Decode(b, v)
}

// admits tells why a preface is refused; the reason does not say whether migration or token was wrong.
func (c Config) admits(p preface) error {
	if !same(p.Migration, c.Migration) || !same(p.Token, c.Token) {
		return errors.New("not a connection of this migration")
	}
	return nil
}

// same compares secrets in a time that depends on neither their contents nor their lengths.
func same(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}
