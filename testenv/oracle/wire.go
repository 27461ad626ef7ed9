package oracle

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Port is the UDP port at which a guest answers.
const Port = 7117

// One datagram is one message. All numbers are big-endian.
//
//	0  "VMOR"   4 version   5 type   6 length of the body, 2 bytes   8 id, 8 bytes   16 body
//
//	ping    nothing                                                      client → guest
//	pong    seal: 8 words of 8 bytes, then flags, 1 byte                 guest → client
//	call    op, 1 byte; offset, 4 bytes; argument, to MaxArgument bytes  client → guest
//	reply   status, 1 byte; total, 4 bytes; offset, 4 bytes; a part      guest → client
//
// A pong has the id of its ping, a reply that of its call. A call asks for the
// part of its result that begins at offset; while the guest is still at it the
// status is "pending", and the client asks again.
const (
	// MaxMessage bounds a datagram, in bytes.
	MaxMessage = 1400
	// MaxArgument bounds the argument of a call, in bytes.
	MaxArgument = 1200
	// MaxResult bounds the result of a call, in bytes.
	MaxResult = 256 << 10

	wireVersion = 1
	headerSize  = 16
	pongSize    = 8*8 + 1
	callHeader  = 5
	replyHeader = 9
	maxPart     = MaxMessage - headerSize - replyHeader
)

var wireMagic = [4]byte{'V', 'M', 'O', 'R'}

// ErrMessage is wrapped by every error about a datagram that cannot be read.
var ErrMessage = errors.New("oracle message")

// msgType is the kind of a message. Zero is none.
type msgType uint8

const (
	msgPing msgType = iota + 1
	msgPong
	msgCall
	msgReply
)

// op is what a call asks for. Zero is nothing.
type op uint8

const (
	opStats op = iota + 1
	opVerify
	opWorkload
	opPowerOff
)

// status is how far a call is. Zero is none.
type status uint8

const (
	statusDone status = iota + 1
	statusPending
	statusFailed // the result is the error's text
)

// message is any message, decoded.
type message struct {
	kind   msgType
	id     uint64
	pong   Pong
	op     op
	status status
	total  uint32
	offset uint32
	data   []byte // argument or part; it aliases the datagram
}

// Pong is a guest's answer to a ping.
type Pong struct {
	Seal
	// Ready is false until the guest's workload runs.
	Ready bool
	// Findings is true when the guest has found an error by itself already.
	Findings bool
	// Failed means that the guest could not be set up and never will be ready;
	// every call returns why.
	Failed bool
}

const (
	flagReady    = 1
	flagFindings = 2
	flagFailed   = 4
)

// append writes the message behind b.
func (m message) append(b []byte) []byte {
	start := len(b)
	b = append(b, wireMagic[:]...)
	b = append(b, wireVersion, byte(m.kind), 0, 0)
	b = binary.BigEndian.AppendUint64(b, m.id)
	switch m.kind {
	case msgPong:
		b = m.pong.append(b)
	case msgCall:
		b = append(b, byte(m.op))
		b = binary.BigEndian.AppendUint32(b, m.offset)
		b = append(b, m.data...)
	case msgReply:
		b = append(b, byte(m.status))
		b = binary.BigEndian.AppendUint32(b, m.total)
		b = binary.BigEndian.AppendUint32(b, m.offset)
		b = append(b, m.data...)
	}
	binary.BigEndian.PutUint16(b[start+6:], uint16(len(b)-start-headerSize))
	return b
}

func (p Pong) append(b []byte) []byte {
	for _, w := range [...]uint64{p.Incarnation, p.Answers, p.Ticks, p.TickChain, p.Pages, p.Blocks, p.Chain, uint64(p.Mono)} {
		b = binary.BigEndian.AppendUint64(b, w)
	}
	var flags byte
	if p.Ready {
		flags |= flagReady
	}
	if p.Findings {
		flags |= flagFindings
	}
	if p.Failed {
		flags |= flagFailed
	}
	return append(b, flags)
}

// decode reads one datagram. Its data aliases b.
func decode(b []byte) (message, error) {
	if len(b) < headerSize || len(b) > MaxMessage {
		return message{}, fmt.Errorf("%w of %d bytes", ErrMessage, len(b))
	}
	if [4]byte(b) != wireMagic {
		return message{}, fmt.Errorf("%w: not ours", ErrMessage)
	}
	if b[4] != wireVersion {
		return message{}, fmt.Errorf("%w: version %d, want %d", ErrMessage, b[4], wireVersion)
	}
	m := message{kind: msgType(b[5]), id: binary.BigEndian.Uint64(b[8:])}
	body := b[headerSize:]
	if n := int(binary.BigEndian.Uint16(b[6:])); n != len(body) {
		return message{}, fmt.Errorf("%w: body of %d bytes, header says %d", ErrMessage, len(body), n)
	}
	if !m.decodeBody(body) {
		return message{}, fmt.Errorf("%w of type %d: bad body of %d bytes", ErrMessage, m.kind, len(body))
	}
	return m, nil
}

func (m *message) decodeBody(b []byte) bool {
	switch m.kind {
	case msgPing:
		return len(b) == 0
	case msgPong:
		return len(b) == pongSize && m.pong.decode(b)
	case msgCall:
		if len(b) < callHeader || len(b) > callHeader+MaxArgument {
			return false
		}
		m.op, m.offset, m.data = op(b[0]), binary.BigEndian.Uint32(b[1:]), b[callHeader:]
		return m.op >= opStats && m.op <= opPowerOff && m.offset <= MaxResult
	case msgReply:
		if len(b) < replyHeader {
			return false
		}
		m.status, m.data = status(b[0]), b[replyHeader:]
		m.total, m.offset = binary.BigEndian.Uint32(b[1:]), binary.BigEndian.Uint32(b[5:])
		return m.status >= statusDone && m.status <= statusFailed && m.total <= MaxResult &&
			uint64(m.offset)+uint64(len(m.data)) <= uint64(m.total)
	}
	return false
}

func (p *Pong) decode(b []byte) bool {
	at := func(i int) uint64 { return binary.BigEndian.Uint64(b[8*i:]) }
	p.Seal = Seal{Incarnation: at(0), Answers: at(1), Ticks: at(2), TickChain: at(3), Pages: at(4), Blocks: at(5),
		Chain: at(6), Mono: time.Duration(at(7))}
	flags := b[pongSize-1]
	p.Ready, p.Findings, p.Failed = flags&flagReady != 0, flags&flagFindings != 0, flags&flagFailed != 0
	return p.Mono >= 0 && flags&^(flagReady|flagFindings|flagFailed) == 0
}
