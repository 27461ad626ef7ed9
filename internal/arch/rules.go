package arch

import "strings"

// arrow says what a package, or with a trailing /... a folder of packages, may
// import of this module. A folder's packages may always import one another.
type arrow struct {
	of  string
	may []string
	why string
}

// The rightmost groups of the arrows, for use in rows further left.
const (
	sys = "internal/sys"
	ram = "migrate/ram"
)

// carriers returns what moves and controls things: NBD, disks, QMP, and below.
func carriers() []string {
	return []string{"migrate/nbd", "migrate/storage", "qmp/...", ram, sys}
}

// arrows is the table of who may import whom. The most specific row counts.
func arrows() []arrow {
	with := func(more ...string) []string { return append(more, carriers()...) }
	return []arrow{
		{"cmd/...", []string{"migrate/...", "analysis/...", "testenv/..."},
			"a command is flags, output and exit codes; RAM, QEMU and the kernel are reached through migrate/engine and the hosts"},
		{"migrate/engine", with("migrate", "migrate/engine/worker", "migrate/engine/worker/kept", "migrate/journal", "migrate/check", "migrate/agent/...",
			"migrate/libvirthost", "migrate/qemuhost", "precopy/...", "postcopy/...", "analysis/..."),
			"the engine is the one place where host drivers, precopy and postcopy meet; nothing but a command comes above it"},
		{"migrate/engine/worker", with("migrate", "migrate/agent/...", "migrate/engine/worker/disks", "migrate/engine/worker/kept", "precopy/...", "postcopy/..."),
			"what an agent does on its host; it belongs to the engine, the one place where precopy and postcopy meet"},
		{"migrate/engine/worker/kept", []string{ram, sys}, "copies of RAM on a disk: who compares them, and with what, is the worker's business"},
		{"migrate/engine/worker/disks", with("migrate", "migrate/agent/...", "postcopy/prepage"),
			"what an agent does for disks; it knows nothing of the guest's RAM"},
		{"migrate", with(),
			"migrate holds interfaces and the pure phase machine: engines and drivers import it, never the other way round"},
		{"migrate/journal", []string{"migrate", sys},
			"the journal stores what migrate names and knows no driver or engine"},
		{"migrate/sampler", []string{"migrate", "migrate/ram", "analysis/sample/..."},
			"a sampler asks hosts through the interfaces of migrate and writes samples: the analysis itself must not know hypervisors"},
		{"migrate/check", []string{"migrate", "migrate/storage", sys},
			"check asks hosts through the interfaces of migrate, so that it works for all of them"},
		{"migrate/agent/...", with("migrate"),
			"an agent is control only: the engine hands it what to do"},
		{"migrate/libvirthost", with("migrate"), "a host driver knows migrate's interfaces and what it drives, no other driver"},
		{"migrate/qemuhost", with("migrate"), "a host driver knows migrate's interfaces and what it drives, no other driver"},
		{"migrate/hosttest", with("migrate"), "the suite that every host driver passes knows migrate's interfaces only"},
		{"migrate/migratetest", []string{"migrate", ram}, "the stand-ins for a coordinator's tests know migrate's interfaces only"},
		{"precopy/...", with("migrate"), "precopy and postcopy never meet but in migrate/engine, where a hybrid joins them"},
		{"postcopy/...", with("migrate"), "precopy and postcopy never meet but in migrate/engine, where a hybrid joins them"},
		{"migrate/nbd", []string{ram, sys}, "exports are sized devices with extents; who fills them is not their business"},
		{"migrate/nbd/nbdtest", []string{"migrate/nbd", ram}, "the suite that every backend passes knows the server and its clients only"},
		{"migrate/storage", []string{"migrate/nbd", "qmp/...", ram, sys}, "disks travel over NBD and are mirrored by QMP jobs"},
		{"qmp/...", []string{sys}, "the QMP client stands alone, so that it can be used without the rest"},
		{ram, []string{sys}, "RAM blocks, pages and extents are values without I/O"},
		{"analysis/...", nil, "the analysis is usable with no hypervisor at all"},
		{"testenv/...", []string{"qmp/...", "migrate/nbd", ram, sys},
			"the lab must not be built from what it tests: it knows QEMU, not the host drivers or engines"},
		{"testenv/bench", []string{"qmp/..."},
			"the benchmark must not be built from what it tests: it runs the program and reads its report"},
		{"internal/need", nil, "asks the machine, not the project"},
		{"internal/arch", nil, "reads source text only"},
		{"internal/tools/...", nil, "tools of the build know nothing of migration"},
		{sys, nil, "the end of every arrow"},
	}
}

// reserved says who besides tests may import a package that is made for them.
type reserved struct {
	pkg string
	by  []string
	why string
}

func reservations() []reserved {
	return []reserved{
		{"testenv/...", []string{"testenv/...", "cmd/..."}, "the lab is for tests, commands and benchmarks"},
		{"internal/need", nil, "only a test can skip"},
		{"internal/arch", nil, "only its own test asks it"},
	}
}

// apart lists pairs that must not meet, in tests either.
func apart() [][2]string {
	return [][2]string{{"precopy/...", "postcopy/..."}}
}

// exception allows one function what its package may not do.
type exception struct {
	dir, fn string
	why     string
}

// mayExit lists functions that may end the process although they stand in no
// command.
func mayExit() []exception {
	return []exception{
		{"testenv", "Init", "main calls it first, and it makes the whole process a helper of the lab; there is no caller to return to"},
	}
}

// topFolders returns the folders that may stand at the top of the repository.
func topFolders() []string {
	return []string{"cmd", "migrate", "qmp", "precopy", "postcopy", "analysis", "testenv", "internal", ".ci"}
}

// vagueNames are no names for a package: they do not say what is in it.
func vagueNames() []string {
	return []string{"util", "utils", "common", "helper", "helpers", "misc", "shared", "base"}
}

const (
	maxFuncLines = 80  // of a function that is no test
	maxFileLines = 400 // of a file that is no test
)

// covers is whether a pattern names the package at dir: exactly, or as part of a
// folder when the pattern ends in /... .
func covers(pattern, dir string) bool {
	folder, ok := strings.CutSuffix(pattern, "/...")
	if !ok {
		return pattern == dir
	}
	return dir == folder || strings.HasPrefix(dir, folder+"/")
}

func anyCovers(patterns []string, dir string) bool {
	for _, p := range patterns {
		if covers(p, dir) {
			return true
		}
	}
	return false
}

// arrowOf returns the most specific row for the package at dir.
func arrowOf(dir string) (arrow, bool) {
	var best arrow
	for _, a := range arrows() {
		if covers(a.of, dir) && len(a.of) > len(best.of) {
			best = a
		}
	}
	return best, best.of != ""
}

// isTestKit is whether a package is made for tests, such as qmptest.
func isTestKit(dir string) bool {
	return strings.HasSuffix(dir, "test") || covers("testenv/...", dir) || dir == "internal/need"
}
