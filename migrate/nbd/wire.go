package nbd

import (
	"encoding/binary"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

// What go-nbd's protocol package does not name. All is from the protocol's document, doc/proto.md of the nbd project.
const (
	flagNoZeroes = uint16(1 << 1) // handshake, both sides: EXPORT_NAME's answer has no 124 zeroes

	optExportName      = uint32(1)
	optStartTLS        = uint32(5)
	optStructuredReply = uint32(8)
	optListMeta        = uint32(9)
	optSetMeta         = uint32(10)

	repMetaContext    = uint32(4)
	repErrFlag        = uint32(1 << 31)
	repErrPolicy      = 2 | repErrFlag
	repErrInvalid     = 3 | repErrFlag
	repErrTLSRequired = 5 | repErrFlag
	repErrShutdown    = 7 | repErrFlag
	repErrTooBig      = 9 | repErrFlag

	transReadOnly    = uint16(1 << 1)
	transFlush       = uint16(1 << 2)
	transFUA         = uint16(1 << 3)
	transTrim        = uint16(1 << 5)
	transWriteZeroes = uint16(1 << 6)
	transDF          = uint16(1 << 7)
	transCache       = uint16(1 << 10)
	transFastZero    = uint16(1 << 11)

	cmdFlush       = uint16(3)
	cmdTrim        = uint16(4)
	cmdCache       = uint16(5)
	cmdWriteZeroes = uint16(6)
	cmdBlockStatus = uint16(7)

	cmdFlagFUA      = uint16(1 << 0)
	cmdFlagNoHole   = uint16(1 << 1)
	cmdFlagDF       = uint16(1 << 2)
	cmdFlagReqOne   = uint16(1 << 3)
	cmdFlagFastZero = uint16(1 << 4)

	magicStructured = uint32(0x668e33ef)
	chunkDone       = uint16(1 << 0)
	chunkNone       = uint16(0)
	chunkData       = uint16(1)
	chunkHole       = uint16(2)
	chunkStatus     = uint16(5)
	chunkErrFlag    = uint16(1 << 15)
	chunkError      = 1 | chunkErrFlag
	chunkErrorAt    = 2 | chunkErrFlag
)

// The names that are too long to read.
const (
	cmdRead  = protocol.TRANSMISSION_TYPE_REQUEST_READ
	cmdWrite = protocol.TRANSMISSION_TYPE_REQUEST_WRITE
	cmdDisc  = protocol.TRANSMISSION_TYPE_REQUEST_DISC

	optAbort = protocol.NEGOTIATION_ID_OPTION_ABORT
	optList  = protocol.NEGOTIATION_ID_OPTION_LIST
	optInfo  = protocol.NEGOTIATION_ID_OPTION_INFO
	optGo    = protocol.NEGOTIATION_ID_OPTION_GO

	repAck        = protocol.NEGOTIATION_TYPE_REPLY_ACK
	repServer     = protocol.NEGOTIATION_TYPE_REPLY_SERVER
	repInfo       = protocol.NEGOTIATION_TYPE_REPLY_INFO
	repErrUnsup   = protocol.NEGOTIATION_TYPE_REPLY_ERR_UNSUPPORTED
	repErrUnknown = protocol.NEGOTIATION_TYPE_REPLY_ERR_UNKNOWN

	transMultiConn = protocol.NEGOTIATION_REPLY_FLAGS_CAN_MULTI_CONN
	transHasFlags  = protocol.NEGOTIATION_REPLY_FLAGS_HAS_FLAGS

	infoExport      = protocol.NEGOTIATION_TYPE_INFO_EXPORT
	infoName        = protocol.NEGOTIATION_TYPE_INFO_NAME
	infoDescription = protocol.NEGOTIATION_TYPE_INFO_DESCRIPTION
	infoBlockSize   = protocol.NEGOTIATION_TYPE_INFO_BLOCKSIZE
)

const (
	requestLen    = 28 // magic, flags, type, cookie, offset, length
	simpleLen     = 16 // magic, error, cookie
	structuredLen = 20 // magic, flags, type, cookie, length

	maxName    = 4096     // bytes of an export's or a context's name: the protocol's own limit
	maxPayload = 32 << 20 // bytes of one request's data: what every client may assume
	maxMessage = 4096     // bytes of an error's text
)

// The contexts that block status is told of.
const (
	// BaseAllocation is the context that says which parts of a device are holes and which read as zeroes.
	BaseAllocation = "base:allocation"
	// DirtyBitmap is the context that says which parts were written to since the last harvest, as QEMU spells a bitmap.
	DirtyBitmap = "qemu:dirty-bitmap:vmmigrate"
)

var wire = binary.BigEndian

// request is one request of the transmission phase, without its data.
type request struct {
	flags, cmd uint16
	cookie     uint64
	offset     uint64
	length     uint32
}

// parseRequest reads a request from the requestLen bytes of p; false where it does not start with the magic.
func parseRequest(p []byte) (request, bool) {
	return request{
		flags:  wire.Uint16(p[4:]),
		cmd:    wire.Uint16(p[6:]),
		cookie: wire.Uint64(p[8:]),
		offset: wire.Uint64(p[16:]),
		length: wire.Uint32(p[24:]),
	}, wire.Uint32(p) == protocol.TRANSMISSION_MAGIC_REQUEST
}

func (r request) append(p []byte) []byte {
	p = wire.AppendUint32(p, protocol.TRANSMISSION_MAGIC_REQUEST)
	p = wire.AppendUint16(p, r.flags)
	p = wire.AppendUint16(p, r.cmd)
	p = wire.AppendUint64(p, r.cookie)
	p = wire.AppendUint64(p, r.offset)
	return wire.AppendUint32(p, r.length)
}

func appendSimple(p []byte, cookie uint64, errno Errno) []byte {
	p = wire.AppendUint32(p, protocol.TRANSMISSION_MAGIC_REPLY)
	p = wire.AppendUint32(p, uint32(errno))
	return wire.AppendUint64(p, cookie)
}

// chunk is the head of one part of a structured reply.
type chunk struct {
	flags, kind uint16
	cookie      uint64
	length      uint32
}

func parseChunk(p []byte) chunk {
	return chunk{flags: wire.Uint16(p[4:]), kind: wire.Uint16(p[6:]), cookie: wire.Uint64(p[8:]), length: wire.Uint32(p[16:])}
}

func (c chunk) append(p []byte) []byte {
	p = wire.AppendUint32(p, magicStructured)
	p = wire.AppendUint16(p, c.flags)
	p = wire.AppendUint16(p, c.kind)
	p = wire.AppendUint64(p, c.cookie)
	return wire.AppendUint32(p, c.length)
}
