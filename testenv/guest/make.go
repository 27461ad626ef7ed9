package guest

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
)

// MakeConfig says how to make the assets.
type MakeConfig struct {
	// Deb is the path of a linux-image-…-cloud-amd64 package file.
	Deb string
	// Out is the directory for the assets; it is made if it is missing.
	Out string
	// Init is the path of a guest/init program that is built already. Empty
	// means that Make builds it with the go command in the working directory,
	// which has to be in this module.
	Init string
	// Log is told what is done; nil says nothing.
	Log *slog.Logger
}

// The modules that the guest needs: its network card, its disk, and the ACPI
// power button with the event device that reports it. What they depend on is
// found in the modules themselves.
var wantedModules = [...]string{"virtio_net", "virtio_blk", "button", "evdev"}

// bootModules says how many of wantedModules the guest waits for.
const bootModules = 2

const initPackage = "github.com/vmmigrate/vmmigrate/testenv/guest/init"

// Make unpacks the kernel package, builds the guest's program and writes the
// assets into cfg.Out. It needs dpkg-deb and xz, and zstd or gzip as the kernel
// asks. Files are put in place by renaming, the initrd last: a Make that was
// cut short leaves either the old assets or none that Find accepts.
func Make(ctx context.Context, cfg MakeConfig) (Assets, error) {
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(cfg.Out, 0o755); err != nil {
		return Assets{}, fmt.Errorf("make guest assets: %w", err)
	}
	pkg, err := unpack(ctx, cfg.Deb)
	if err != nil {
		return Assets{}, fmt.Errorf("make guest assets: unpack %s: %w", cfg.Deb, err)
	}
	log.Info("unpacked", "package", filepath.Base(cfg.Deb), "modules", len(pkg.modules))
	kernel := unwrapKernel(ctx, pkg.kernel, log)
	program, err := initProgram(ctx, cfg)
	if err != nil {
		return Assets{}, fmt.Errorf("make guest assets: build init: %w", err)
	}
	modules, err := orderModules(ctx, pkg.modules)
	if err != nil {
		return Assets{}, fmt.Errorf("make guest assets: %w", err)
	}
	initrd, err := buildInitrd(program, modules)
	if err != nil {
		return Assets{}, fmt.Errorf("make guest assets: initrd: %w", err)
	}
	for _, f := range []struct {
		name string
		data []byte
	}{{kernelFile, kernel}, {initrdFile, initrd}} {
		if err := writeFile(filepath.Join(cfg.Out, f.name), f.data); err != nil {
			return Assets{}, fmt.Errorf("make guest assets: %w", err)
		}
		log.Info("wrote", "file", f.name, "bytes", len(f.data))
	}
	if err := os.Remove(filepath.Join(cfg.Out, accelFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return Assets{}, fmt.Errorf("make guest assets: forget the accelerator: %w", err)
	}
	return at(cfg.Out)
}

// writeFile puts data at path in one step.
func writeFile(path string, data []byte) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// unpacked is what is kept of a kernel package.
type unpacked struct {
	kernel  []byte            // vmlinuz
	modules map[string][]byte // by name, still compressed
}

// maxFile bounds a file of the package that is read into memory, in bytes.
const maxFile = 256 << 20

// unpack reads vmlinuz and the modules that might be needed.
func unpack(ctx context.Context, deb string) (unpacked, error) {
	var errs bytes.Buffer
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		return unpacked{}, err
	}
	if err := cmd.Start(); err != nil {
		return unpacked{}, fmt.Errorf("%w (package dpkg has it)", err)
	}
	pkg, err := readTar(tar.NewReader(out))
	if err != nil {
		out.Close()
		cmd.Wait()
		return unpacked{}, errors.Join(err, errors.New(strings.TrimSpace(errs.String())))
	}
	if err := cmd.Wait(); err != nil {
		return unpacked{}, fmt.Errorf("dpkg-deb: %w: %s", err, strings.TrimSpace(errs.String()))
	}
	if pkg.kernel == nil {
		return unpacked{}, errors.New("no boot/vmlinuz-… in it: not a kernel package")
	}
	return pkg, nil
}

func readTar(r *tar.Reader) (unpacked, error) {
	pkg := unpacked{modules: make(map[string][]byte)}
	for {
		h, err := r.Next()
		if err == io.EOF {
			return pkg, nil
		}
		if err != nil {
			return pkg, err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		base := path.Base(h.Name)
		module, isModule := moduleName(base)
		isKernel := strings.HasPrefix(base, "vmlinuz-")
		if !isKernel && !(isModule && mayNeed(h.Name)) {
			continue
		}
		data, err := io.ReadAll(io.LimitReader(r, maxFile))
		if err != nil {
			return pkg, fmt.Errorf("%s: %w", h.Name, err)
		}
		if isKernel {
			pkg.kernel = data
		} else {
			pkg.modules[module] = data
		}
	}
}

// mayNeed keeps the parts of the module tree in which the wanted modules and
// what they depend on can be.
func mayNeed(name string) bool {
	for _, part := range []string{"/drivers/net/", "/drivers/block/", "/drivers/virtio/", "/drivers/acpi/", "/drivers/input/", "/net/core/"} {
		if strings.Contains(name, part) {
			return true
		}
	}
	return false
}

// moduleName is the name by which the kernel knows a module file.
func moduleName(file string) (string, bool) {
	for _, suffix := range []string{".ko", ".ko.xz", ".ko.zst", ".ko.gz"} {
		if name, ok := strings.CutSuffix(file, suffix); ok {
			return strings.ReplaceAll(name, "-", "_"), true
		}
	}
	return "", false
}

// initProgram returns the guest's program, built as a static one.
func initProgram(ctx context.Context, cfg MakeConfig) ([]byte, error) {
	if cfg.Init != "" {
		return os.ReadFile(cfg.Init)
	}
	target := filepath.Join(cfg.Out, "init")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", target, initPackage)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	return os.ReadFile(target)
}
