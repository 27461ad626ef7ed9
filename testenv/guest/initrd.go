package guest

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"
	"golang.org/x/sys/unix"
)

// module is one kernel module, ready to be loaded.
type module struct {
	name string
	data []byte
	// late modules are loaded once the guest answers.
	late bool
}

// orderModules unpacks the wanted modules and those they depend on and puts
// each behind its dependencies. One that the package does not have is taken to
// be part of the kernel.
func orderModules(ctx context.Context, packed map[string][]byte) ([]module, error) {
	var ordered []module
	done := make(map[string]bool)
	var load func(name string, late bool) error
	load = func(name string, late bool) error {
		data, ok := packed[name]
		if done[name] || !ok {
			return nil
		}
		done[name] = true
		data, err := decompress(ctx, data)
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		deps, err := moduleDeps(data)
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		for _, dep := range deps {
			if err := load(dep, late); err != nil {
				return err
			}
		}
		ordered = append(ordered, module{name, data, late})
		return nil
	}
	for i, name := range wantedModules {
		if err := load(name, i >= bootModules); err != nil {
			return nil, err
		}
	}
	return ordered, nil
}

// moduleDeps reads the names of the modules that a module needs.
func moduleDeps(data []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("no .modinfo section")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for entry := range strings.SplitSeq(string(info), "\x00") {
		if list, ok := strings.CutPrefix(entry, "depends="); ok && list != "" {
			return strings.Split(strings.ReplaceAll(list, "-", "_"), ","), nil
		}
	}
	return nil, nil
}

// The directories in the initrd from which the guest loads its modules, in the
// order of their names.
const (
	bootModuleDir = "modules/boot"
	lateModuleDir = "modules/late"
)

// buildInitrd is an archive with the program as /init, the modules, and the
// few directories and the console that the kernel wants before /init runs.
func buildInitrd(program []byte, modules []module) ([]byte, error) {
	var out bytes.Buffer
	w := cpio.Newc.Writer(&out)
	records := []cpio.Record{}
	for _, dir := range []string{"dev", "proc", "sys", "modules", bootModuleDir, lateModuleDir} {
		records = append(records, cpio.Directory(dir, 0o755))
	}
	records = append(records,
		cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.StaticFile("init", string(program), 0o755))
	for i, m := range modules {
		dir := bootModuleDir
		if m.late {
			dir = lateModuleDir
		}
		records = append(records, cpio.StaticFile(fmt.Sprintf("%s/%02d-%s.ko", dir, i, m.name), string(m.data), 0o644))
	}
	for i := range records {
		records[i].Info.Ino = uint64(i + 1)
		records[i].Info.NLink = 1
		if records[i].Info.Mode&unix.S_IFMT == unix.S_IFDIR {
			records[i].Info.NLink = 2
		}
	}
	if err := cpio.WriteRecords(w, records); err != nil {
		return nil, err
	}
	if err := cpio.WriteTrailer(w); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
