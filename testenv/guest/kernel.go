package guest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
)

// Offsets in the header of a bzImage (the kernel's Documentation/arch/x86/boot.rst).
const (
	setupSectsAt    = 0x1f1
	headerMagicAt   = 0x202
	bootVersionAt   = 0x206
	payloadOffsetAt = 0x248
	payloadLengthAt = 0x24c
	headerEnd       = 0x250
	payloadVersion  = 0x0208 // the first protocol that has the payload fields
	sector          = 512
)

// unwrapKernel returns the ELF file inside vmlinuz, or vmlinuz itself with a
// word to the log when it cannot be had: the guest then boots more slowly.
func unwrapKernel(ctx context.Context, vmlinuz []byte, log *slog.Logger) []byte {
	elf, err := kernelELF(ctx, vmlinuz)
	if err != nil {
		log.Warn("kernel is kept compressed and will boot more slowly", "cause", err)
		return vmlinuz
	}
	return elf
}

func kernelELF(ctx context.Context, image []byte) ([]byte, error) {
	payload, err := kernelPayload(image)
	if err != nil {
		return nil, err
	}
	// Behind the compressed data is its length unpacked, 4 bytes.
	elf, err := decompress(ctx, payload[:len(payload)-4])
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(elf, []byte("\x7fELF")) {
		return nil, errors.New("the kernel's payload is no ELF file")
	}
	return elf, nil
}

// kernelPayload cuts the compressed kernel out of a bzImage.
func kernelPayload(image []byte) ([]byte, error) {
	if len(image) < headerEnd || string(image[headerMagicAt:headerMagicAt+4]) != "HdrS" {
		return nil, errors.New("not a bzImage")
	}
	if v := binary.LittleEndian.Uint16(image[bootVersionAt:]); v < payloadVersion {
		return nil, fmt.Errorf("boot protocol %#x has no payload", v)
	}
	setup := (int64(image[setupSectsAt]) + 1) * sector
	start := setup + int64(binary.LittleEndian.Uint32(image[payloadOffsetAt:]))
	length := int64(binary.LittleEndian.Uint32(image[payloadLengthAt:]))
	if length < 8 || start+length > int64(len(image)) {
		return nil, fmt.Errorf("payload of %d bytes at %d in an image of %d", length, start, len(image))
	}
	return image[start : start+length], nil
}

var formats = []struct{ magic, program, pkg string }{
	{"\x28\xb5\x2f\xfd", "zstd", "zstd"},
	{"\xfd7zXZ\x00", "xz", "xz-utils"},
	{"\x1f\x8b", "gzip", "gzip"},
}

// decompress unpacks data with the program for its format; data in none of
// the formats is returned as it is.
func decompress(ctx context.Context, data []byte) ([]byte, error) {
	for _, f := range formats {
		if !bytes.HasPrefix(data, []byte(f.magic)) {
			continue
		}
		args := []string{"-d", "-c"}
		if f.program == "zstd" {
			args = append(args, "--long=31", "-q")
		}
		var out, errs bytes.Buffer
		cmd := exec.CommandContext(ctx, f.program, args...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(data), &limited{&out, maxFile}, &errs
		if err := cmd.Run(); err != nil {
			return nil, fmt.Errorf("%s: %w %s(package %s has it)", f.program, err, errs.String(), f.pkg)
		}
		return out.Bytes(), nil
	}
	return data, nil
}

// limited writes at most left bytes.
type limited struct {
	w    io.Writer
	left int
}

func (l *limited) Write(b []byte) (int, error) {
	if len(b) > l.left {
		return 0, fmt.Errorf("more than %d bytes unpacked", maxFile)
	}
	l.left -= len(b)
	return l.w.Write(b)
}
