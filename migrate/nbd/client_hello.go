package nbd

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

const maxReply = 64 << 10 // bytes of one answer to an option

// hello is a client's side of the handshake.
type hello struct {
	cfg      *ClientConfig
	conn     net.Conn
	br       *bufio.Reader
	info     Info
	contexts map[uint32]string
}

// OptionError is what a server answered to an option that it refused.
type OptionError struct {
	// Option and Reply are the protocol's numbers.
	Option, Reply uint32
	// Message is the server's text, if it sent one.
	Message string
}

func (e *OptionError) Error() string {
	return fmt.Sprintf("nbd option %d refused by the server (error %d): %s", e.Option, e.Reply&^repErrFlag, e.Message)
}

// Is makes the answer to a wrong name an ErrNoExport.
func (e *OptionError) Is(target error) bool { return target == ErrNoExport && e.Reply == repErrUnknown }

func (h *hello) shake(ctx context.Context) error {
	if err := h.conn.SetDeadline(time.Now().Add(max(h.cfg.Patience, 10*time.Second))); err != nil {
		return fmt.Errorf("nbd handshake: %w", err)
	}
	below := h.conn
	stop := context.AfterFunc(ctx, func() { _ = below.SetDeadline(time.Unix(1, 0)) }) // a dead connection shows by itself
	err := h.lead(ctx)
	if !stop() {
		return fmt.Errorf("nbd handshake: %w", context.Cause(ctx))
	}
	if err != nil {
		return err
	}
	if err := h.conn.SetDeadline(time.Time{}); err != nil {
		return fmt.Errorf("nbd handshake: %w", err)
	}
	return nil
}

func (h *hello) lead(ctx context.Context) error {
	h.br = bufio.NewReaderSize(h.conn, readAhead)
	var head [18]byte
	if _, err := io.ReadFull(h.br, head[:]); err != nil {
		return fmt.Errorf("nbd handshake: greeting: %w", err)
	}
	flags := wire.Uint16(head[16:])
	if wire.Uint64(head[:]) != protocol.NEGOTIATION_MAGIC_OLDSTYLE || wire.Uint64(head[8:]) != protocol.NEGOTIATION_MAGIC_OPTION ||
		flags&protocol.NEGOTIATION_HANDSHAKE_FLAG_FIXED_NEWSTYLE == 0 {
		return errors.New("nbd handshake: no NBD server that speaks fixed newstyle")
	}
	answer := protocol.NEGOTIATION_HANDSHAKE_FLAG_FIXED_NEWSTYLE | flags&flagNoZeroes
	if err := h.write(wire.AppendUint32(nil, uint32(answer))); err != nil {
		return err
	}
	if h.cfg.TLS != nil {
		if err := h.startTLS(ctx); err != nil {
			return err
		}
	}
	var refused *OptionError
	switch err := h.option(optStructuredReply, nil, nil); {
	case err == nil:
		h.info.Structured = true
		if err := h.setContexts(); err != nil {
			return err
		}
	case !errors.As(err, &refused):
		return err
	}
	return h.goTo()
}

func (h *hello) startTLS(ctx context.Context) error {
	if err := h.option(optStartTLS, nil, nil); err != nil {
		return err
	}
	if h.br.Buffered() > 0 {
		return errors.New("nbd handshake: the server went on before TLS")
	}
	secured := tls.Client(newBatchConn(h.conn), h.cfg.TLS)
	if err := secured.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("nbd handshake: TLS: %w", err)
	}
	h.conn, h.br = secured, bufio.NewReaderSize(secured, readAhead)
	return nil
}

func (h *hello) setContexts() error {
	h.contexts = map[uint32]string{}
	if len(h.cfg.Contexts) == 0 {
		return nil
	}
	p := append(wire.AppendUint32(nil, uint32(len(h.cfg.Export))), h.cfg.Export...)
	p = wire.AppendUint32(p, uint32(len(h.cfg.Contexts)))
	for _, c := range h.cfg.Contexts {
		p = append(wire.AppendUint32(p, uint32(len(c))), c...)
	}
	err := h.option(optSetMeta, p, func(kind uint32, data []byte) error {
		if kind != repMetaContext || len(data) < 4 {
			return fmt.Errorf("nbd handshake: answer %d to SET_META_CONTEXT", kind)
		}
		if name := string(data[4:]); slices.Contains(h.cfg.Contexts, name) {
			h.contexts[wire.Uint32(data)] = name
			h.info.Contexts = append(h.info.Contexts, name)
		}
		return nil
	})
	var refused *OptionError
	if errors.As(err, &refused) {
		return nil // then there are none; a wrong name is told by GO
	}
	return err
}

func (h *hello) goTo() error {
	h.info.MinBlock, h.info.PreferredBlock, h.info.MaxBlock = 1, 4096, maxPayload
	p := append(wire.AppendUint32(nil, uint32(len(h.cfg.Export))), h.cfg.Export...)
	p = wire.AppendUint16(wire.AppendUint16(p, 1), infoBlockSize)
	told := false
	err := h.option(optGo, p, func(kind uint32, data []byte) error {
		if kind != repInfo || len(data) < 2 {
			return fmt.Errorf("nbd handshake: answer %d to GO", kind)
		}
		told = told || wire.Uint16(data) == infoExport
		return h.info.add(data)
	})
	if err == nil && !told {
		err = errors.New("nbd handshake: the server did not describe the export")
	}
	return err
}

// add takes one information of a server in.
func (i *Info) add(data []byte) error {
	switch kind := wire.Uint16(data); {
	case kind == infoExport && len(data) == 12:
		size := wire.Uint64(data[2:])
		if size > 1<<63-1 {
			return fmt.Errorf("nbd handshake: an export of %d bytes", size)
		}
		i.Size = int64(size)
		i.flags(wire.Uint16(data[10:]))
	case kind == infoBlockSize && len(data) == 14:
		i.MinBlock, i.PreferredBlock, i.MaxBlock = wire.Uint32(data[2:]), wire.Uint32(data[6:]), wire.Uint32(data[10:])
		if i.MinBlock == 0 || i.MinBlock&(i.MinBlock-1) != 0 || i.MinBlock > 64<<10 || i.MaxBlock < i.MinBlock {
			return fmt.Errorf("nbd handshake: block sizes %d to %d", i.MinBlock, i.MaxBlock)
		}
		i.MaxBlock = min(i.MaxBlock, maxPayload) &^ (i.MinBlock - 1)
	case kind == infoExport || kind == infoBlockSize:
		return fmt.Errorf("nbd handshake: an information of type %d with %d bytes", kind, len(data))
	}
	return nil
}

func (i *Info) flags(f uint16) {
	i.ReadOnly = f&transReadOnly != 0
	i.MultiConn = f&transMultiConn != 0
	i.CanTrim = f&transTrim != 0
	i.CanZero = f&transWriteZeroes != 0
	i.CanFlush = f&transFlush != 0
	i.CanCache = f&transCache != 0
	i.whole = f&transDF != 0
}

// option sends an option and reads its answers: each is given to f, until the last, which has nothing to say or is an error.
func (h *hello) option(opt uint32, data []byte, f func(kind uint32, data []byte) error) error {
	p := wire.AppendUint64(nil, protocol.NEGOTIATION_MAGIC_OPTION)
	p = wire.AppendUint32(wire.AppendUint32(p, opt), uint32(len(data)))
	if err := h.write(append(p, data...)); err != nil {
		return err
	}
	for range maxOptions {
		kind, data, err := h.reply(opt)
		switch {
		case err != nil:
			return err
		case kind == repAck:
			return nil
		case kind&repErrFlag != 0:
			return &OptionError{opt, kind, string(data)}
		case f == nil:
			return fmt.Errorf("nbd handshake: answer %d to option %d", kind, opt)
		}
		if err := f(kind, data); err != nil {
			return err
		}
	}
	return fmt.Errorf("nbd handshake: more than %d answers to option %d", maxOptions, opt)
}

func (h *hello) reply(opt uint32) (kind uint32, data []byte, err error) {
	var head [20]byte
	if _, err := io.ReadFull(h.br, head[:]); err != nil {
		return 0, nil, fmt.Errorf("nbd handshake: answer to option %d: %w", opt, err)
	}
	length := wire.Uint32(head[16:])
	if wire.Uint64(head[:]) != protocol.NEGOTIATION_MAGIC_REPLY || wire.Uint32(head[8:]) != opt || length > maxReply {
		return 0, nil, fmt.Errorf("nbd handshake: no answer to option %d, or one of %d bytes", opt, length)
	}
	data = make([]byte, length)
	if _, err := io.ReadFull(h.br, data); err != nil {
		return 0, nil, fmt.Errorf("nbd handshake: answer to option %d: %w", opt, err)
	}
	return wire.Uint32(head[12:]), data, nil
}

func (h *hello) write(p []byte) error {
	if _, err := h.conn.Write(p); err != nil {
		return fmt.Errorf("nbd handshake: %w", err)
	}
	return nil
}
