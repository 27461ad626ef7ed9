package nbd

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

const (
	maxOption  = 64 << 10 // bytes of one option's data
	maxOptions = 1024     // of one negotiation, so that nobody negotiates for ever
	readAhead  = 8 << 10  // of headers; more would be copied twice when it is data
)

var errNegotiation = errors.New("nbd: the client broke the rules of negotiation")

// negotiation is a connection before it has an export.
type negotiation struct {
	srv      *Server
	ctx      context.Context
	conn     net.Conn
	br       *bufio.Reader
	secure   bool
	noZeroes bool

	structured bool
	contexts   []metaContext
	contextsOf string // the export that the contexts were set for
	out        []byte
	chosen     *device // when negotiation is over, or nil if the client left
}

// negotiate leads the handshake. Without an error a nil session says that the client left politely.
func (s *Server) negotiate(ctx context.Context, conn net.Conn) (*session, error) {
	n := &negotiation{srv: s, ctx: ctx, conn: conn, br: bufio.NewReaderSize(conn, readAhead)}
	_, n.secure = conn.(*tls.Conn)
	if err := conn.SetDeadline(time.Now().Add(s.cfg.Limits.Handshake)); err != nil {
		return nil, fmt.Errorf("nbd handshake: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // a dead connection shows soon enough
	err := n.lead()
	if !stop() {
		return nil, fmt.Errorf("nbd handshake: %w", context.Cause(ctx))
	}
	if err != nil || n.chosen == nil {
		return nil, err
	}
	if err := n.conn.SetDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("nbd handshake: %w", err)
	}
	return newSession(s, n), nil
}

func (n *negotiation) lead() error {
	n.out = wire.AppendUint64(n.out, protocol.NEGOTIATION_MAGIC_OLDSTYLE)
	n.out = wire.AppendUint64(n.out, protocol.NEGOTIATION_MAGIC_OPTION)
	n.out = wire.AppendUint16(n.out, protocol.NEGOTIATION_HANDSHAKE_FLAG_FIXED_NEWSTYLE|flagNoZeroes)
	if err := n.flush(); err != nil {
		return err
	}
	var flags [4]byte
	if _, err := io.ReadFull(n.br, flags[:]); err != nil {
		return fmt.Errorf("nbd handshake: client flags: %w", err)
	}
	known := uint32(protocol.NEGOTIATION_HANDSHAKE_FLAG_FIXED_NEWSTYLE | flagNoZeroes)
	got := wire.Uint32(flags[:])
	if got&^known != 0 || got&uint32(protocol.NEGOTIATION_HANDSHAKE_FLAG_FIXED_NEWSTYLE) == 0 {
		return fmt.Errorf("%w: client flags %#x", errNegotiation, got)
	}
	n.noZeroes = got&uint32(flagNoZeroes) != 0
	for range maxOptions {
		over, err := n.option()
		if err != nil || over {
			return err
		}
	}
	return fmt.Errorf("%w: more than %d options", errNegotiation, maxOptions)
}

// option reads one option and answers it; true ends the negotiation.
func (n *negotiation) option() (over bool, err error) {
	var head [16]byte
	if _, err := io.ReadFull(n.br, head[:]); err != nil {
		return false, fmt.Errorf("nbd handshake: option: %w", err)
	}
	opt, length := wire.Uint32(head[8:]), wire.Uint32(head[12:])
	if wire.Uint64(head[:]) != protocol.NEGOTIATION_MAGIC_OPTION {
		return false, fmt.Errorf("%w: option without its magic", errNegotiation)
	}
	if length > maxOption {
		return false, n.tooBig(opt, length)
	}
	data := make([]byte, length)
	if _, err := io.ReadFull(n.br, data); err != nil {
		return false, fmt.Errorf("nbd handshake: option %d: %w", opt, err)
	}
	over, err = n.answer(opt, data)
	if err == nil {
		err = n.flush()
	}
	return over, err
}

// tooBig refuses an option, and passes over its data if that is not outrageous.
func (n *negotiation) tooBig(opt, length uint32) error {
	if length > 16*maxOption || opt == optExportName {
		return fmt.Errorf("%w: option %d of %d bytes", errNegotiation, opt, length)
	}
	if _, err := n.br.Discard(int(length)); err != nil {
		return fmt.Errorf("nbd handshake: option %d: %w", opt, err)
	}
	n.refuse(opt, repErrTooBig, fmt.Sprintf("an option has at most %d bytes", maxOption))
	return n.flush()
}

func (n *negotiation) answer(opt uint32, data []byte) (over bool, err error) {
	if n.srv.cfg.RequireTLS && !n.secure && opt != optStartTLS && opt != optAbort {
		if opt == optExportName {
			return false, fmt.Errorf("%w: EXPORT_NAME without TLS, which is required", errNegotiation)
		}
		n.refuse(opt, repErrTLSRequired, "this server speaks TLS only")
		return false, nil
	}
	switch opt {
	case optExportName:
		return true, n.exportName(string(data))
	case optAbort:
		n.reply(opt, repAck, nil)
		return true, nil
	case optList:
		return false, n.list(data)
	case optInfo, optGo:
		return n.info(opt, data), nil
	case optStartTLS:
		return false, n.startTLS(data)
	case optStructuredReply:
		n.setStructured(data)
	case optListMeta, optSetMeta:
		n.meta(opt, data)
	default:
		n.refuse(opt, repErrUnsup, "no such option here")
	}
	return false, nil
}

func (n *negotiation) setStructured(data []byte) {
	if len(data) != 0 {
		n.refuse(optStructuredReply, repErrInvalid, "STRUCTURED_REPLY has no data")
		return
	}
	n.structured = true
	n.reply(optStructuredReply, repAck, nil)
}

// startTLS answers and then lets TLS have the connection. Whatever was agreed before no longer counts.
func (n *negotiation) startTLS(data []byte) error {
	switch {
	case len(data) != 0:
		n.refuse(optStartTLS, repErrInvalid, "STARTTLS has no data")
		return nil
	case n.srv.cfg.TLS == nil:
		n.refuse(optStartTLS, repErrPolicy, "this server has no TLS")
		return nil
	case n.secure:
		n.refuse(optStartTLS, repErrInvalid, "TLS is there already")
		return nil
	case n.br.Buffered() > 0:
		return fmt.Errorf("%w: something sent between STARTTLS and its answer", errNegotiation)
	}
	n.reply(optStartTLS, repAck, nil)
	if err := n.flush(); err != nil {
		return err
	}
	secured := tls.Server(newBatchConn(n.conn), n.srv.cfg.TLS)
	if err := secured.HandshakeContext(n.ctx); err != nil {
		return fmt.Errorf("nbd handshake: TLS: %w", err)
	}
	n.conn, n.secure = secured, true
	n.br = bufio.NewReaderSize(secured, readAhead)
	n.structured, n.contexts, n.contextsOf = false, nil, ""
	return nil
}

func (n *negotiation) list(data []byte) error {
	if len(data) != 0 {
		n.refuse(optList, repErrInvalid, "LIST has no data")
		return nil
	}
	exports, err := n.srv.cfg.Exports.List(n.ctx)
	if err != nil {
		n.refuse(optList, repErrPolicy, err.Error())
		return nil
	}
	for _, x := range exports {
		if len(x.Name) > maxName {
			continue // it cannot be asked for either
		}
		entry := wire.AppendUint32(nil, uint32(len(x.Name)))
		entry = append(append(entry, x.Name...), clip(x.Description)...)
		n.reply(optList, repServer, entry)
		if len(n.out) > maxOption {
			if err := n.flush(); err != nil {
				return err
			}
		}
	}
	n.reply(optList, repAck, nil)
	return nil
}

// find looks an export up, for an option that is refused in words if there is none.
func (n *negotiation) find(opt uint32, name string) *device {
	x, err := n.srv.cfg.Exports.Find(n.ctx, name)
	if errors.Is(err, ErrNoExport) {
		n.refuse(opt, repErrUnknown, err.Error())
		return nil
	}
	var d *device
	if err == nil {
		d, err = newDevice(x, n.srv.cfg.Limits.Request)
	}
	if err != nil {
		n.srv.log.Warn("nbd export cannot be served", "export", name, "err", err)
		n.refuse(opt, repErrPolicy, "this export cannot be served now")
		return nil
	}
	return d
}

func (n *negotiation) exportName(name string) error {
	var d *device
	if len(name) <= maxName {
		d = n.find(optExportName, name)
		n.out = n.out[:0] // EXPORT_NAME can only be refused by hanging up
	}
	if d == nil {
		return fmt.Errorf("%w: EXPORT_NAME %.64q", ErrNoExport, name)
	}
	n.out = wire.AppendUint64(n.out, uint64(d.size))
	n.out = wire.AppendUint16(n.out, d.flags(n.structured))
	if !n.noZeroes {
		n.out = append(n.out, make([]byte, 124)...)
	}
	n.choose(d, name)
	return nil
}

// info answers INFO and GO; true if that was a GO to an export that is there.
func (n *negotiation) info(opt uint32, data []byte) bool {
	name, wanted, err := parseInfo(data)
	if err != nil {
		n.refuse(opt, repErrInvalid, err.Error())
		return false
	}
	d := n.find(opt, name)
	if d == nil {
		return false
	}
	p := wire.AppendUint64(wire.AppendUint16(nil, infoExport), uint64(d.size))
	n.reply(opt, repInfo, wire.AppendUint16(p, d.flags(n.structured)))
	for _, w := range wanted {
		switch w {
		case infoName:
			n.reply(opt, repInfo, append(wire.AppendUint16(nil, w), d.Name...))
		case infoDescription:
			if d.Description != "" {
				n.reply(opt, repInfo, append(wire.AppendUint16(nil, w), clip(d.Description)...))
			}
		}
	}
	// Block sizes are told also to those who did not ask: they may ignore them.
	p = wire.AppendUint32(wire.AppendUint16(nil, infoBlockSize), d.MinBlock)
	n.reply(opt, repInfo, wire.AppendUint32(wire.AppendUint32(p, d.PreferredBlock), d.MaxBlock))
	n.reply(opt, repAck, nil)
	if opt == optGo {
		n.choose(d, name)
	}
	return opt == optGo
}

// choose ends the negotiation. Contexts count only for the export that they were set for.
func (n *negotiation) choose(d *device, name string) {
	n.chosen = d
	if n.contextsOf != name {
		n.contexts = nil
	}
}

// parseInfo reads the data of INFO and GO: a name and the informations that are wanted.
func parseInfo(p []byte) (name string, wanted []uint16, err error) {
	name, p, err = parseName(p)
	if err != nil {
		return "", nil, err
	}
	if len(p) < 2 || len(p) != 2+2*int(wire.Uint16(p)) {
		return "", nil, errors.New("the list of informations is not as long as it says")
	}
	for p = p[2:]; len(p) > 0; p = p[2:] {
		wanted = append(wanted, wire.Uint16(p))
	}
	return name, wanted, nil
}

// parseName reads a length and as many bytes, and returns what follows.
func parseName(p []byte) (name string, rest []byte, err error) {
	if len(p) < 4 {
		return "", nil, errors.New("too short for a name")
	}
	length := wire.Uint32(p)
	if length > maxName || int(length) > len(p)-4 {
		return "", nil, errors.New("a name that is too long")
	}
	return string(p[4 : 4+length]), p[4+length:], nil
}

func clip(text string) string { return text[:min(len(text), maxName)] }

func (n *negotiation) refuse(opt, kind uint32, text string) { n.reply(opt, kind, []byte(clip(text))) }

func (n *negotiation) reply(opt, kind uint32, data []byte) {
	n.out = wire.AppendUint64(n.out, protocol.NEGOTIATION_MAGIC_REPLY)
	n.out = wire.AppendUint32(n.out, opt)
	n.out = wire.AppendUint32(n.out, kind)
	n.out = wire.AppendUint32(n.out, uint32(len(data)))
	n.out = append(n.out, data...)
}

func (n *negotiation) flush() error {
	_, err := n.conn.Write(n.out)
	n.out = n.out[:0]
	if err != nil {
		return fmt.Errorf("nbd handshake: %w", err)
	}
	return nil
}
