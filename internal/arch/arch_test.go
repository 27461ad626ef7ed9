package arch

import (
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
)

// tree is a small module: file names and what is in them.
type tree map[string]string

func (files tree) fs() fs.FS {
	out := fstest.MapFS{
		"go.mod":     {Data: []byte("module example.com/m\n\ngo 1.26\n")},
		".gitignore": {Data: []byte("*.o\n/build/\n")},
	}
	for name, text := range files {
		out[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return out
}

// check loads and checks the tree.
func (files tree) check(t *testing.T) []Violation {
	t.Helper()
	loaded, err := Load(files.fs())
	if err != nil {
		t.Fatal(err)
	}
	return loaded.Check()
}

// file is the text of a documented file of package name with the given imports.
func file(name string, imports ...string) string {
	var b strings.Builder
	b.WriteString("// Package " + name + " is here to be judged.\npackage " + name + "\n")
	for _, path := range imports {
		b.WriteString("import _ \"" + strings.Replace(path, "@/", "example.com/m/", 1) + "\"\n")
	}
	return b.String()
}

// Each case is an import by its file and target; why is part of the complaint, or
// empty where the import is right.
func TestArrows(t *testing.T) {
	cases := []struct{ from, to, why string }{
		// Downwards, and to the side where the table says so.
		{"cmd/vmmigrate/main.go", "migrate/engine", ""},
		{"cmd/vmmigrate/main.go", "migrate/journal", ""},
		{"cmd/vmmigrate/lab.go", "testenv", ""},
		{"cmd/vmmigrate/analyze.go", "analysis/cycle", ""},
		{"migrate/engine/nbd.go", "precopy/track", ""},
		{"migrate/engine/nbd.go", "postcopy", ""},
		{"migrate/engine/native.go", "migrate/libvirthost", ""},
		{"migrate/journal/journal.go", "migrate", ""},
		{"migrate/check/check.go", "migrate", ""},
		{"migrate/qemuhost/host.go", "qmp", ""},
		{"precopy/rounds.go", "migrate/ram", ""},
		{"precopy/rounds.go", "precopy/track", ""},
		{"migrate/nbd/server.go", "migrate/ram", ""},
		{"migrate/ram/ram.go", "internal/sys", ""},
		{"testenv/host.go", "qmp", ""},
		{"testenv/host.go", "testenv/link", ""},
		{"qmp/qmptest/fake.go", "qmp", ""},
		// Upwards, or across.
		{"migrate/migrate.go", "migrate/engine", "never the other way round"},
		{"migrate/migrate.go", "migrate/libvirthost", "never the other way round"},
		{"migrate/engine/nbd.go", "cmd/vmmigrate", "nothing but a command"},
		{"cmd/vmmigrate/main.go", "precopy", "flags, output and exit codes"},
		{"cmd/vmmigrate/main.go", "qmp", "flags, output and exit codes"},
		{"precopy/rounds.go", "postcopy", "never meet"},
		{"postcopy/pager.go", "precopy/track", "never meet"},
		{"postcopy/pager.go", "migrate/engine", "never meet"},
		{"migrate/libvirthost/host.go", "migrate/qemuhost", "no other driver"},
		{"migrate/journal/journal.go", "migrate/libvirthost", "no driver or engine"},
		{"migrate/agent/agent.go", "postcopy", "control only"},
		{"migrate/nbd/server.go", "migrate", "who fills them"},
		{"migrate/storage/mirror.go", "migrate", "travel over NBD"},
		{"qmp/client.go", "migrate/ram", "stands alone"},
		{"migrate/ram/ram.go", "migrate/nbd", "without I/O"},
		{"analysis/cycle/cycle.go", "migrate/ram", "no hypervisor at all"},
		{"analysis/cycle/cycle.go", "internal/sys", "no hypervisor at all"},
		{"internal/sys/sys.go", "migrate/ram", "the end of every arrow"},
		{"testenv/host.go", "migrate/libvirthost", "what it tests"},
		{"testenv/bench/bench.go", "migrate/engine", "what it tests"},
		// The lab and other things made for tests.
		{"migrate/engine/nbd.go", "testenv", "for tests, commands and benchmarks"},
		{"migrate/engine/nbd_test.go", "testenv", ""},
		{"migrate/engine/nbd.go", "internal/need", "only a test can skip"},
		{"migrate/engine/nbd_test.go", "internal/need", ""},
		{"migrate/qemuhost/host.go", "qmp/qmptest", "for tests"},
		{"migrate/qemuhost/host_test.go", "qmp/qmptest", ""},
		{"migrate/qemuhost/host_test.go", "migrate/hosttest", ""},
		{"migrate/hosttest/suite.go", "testenv", ""},
		// A test may not take more than that.
		{"precopy/rounds_test.go", "postcopy", "never meet"},
		{"analysis/cycle/cycle_test.go", "migrate/ram", "no hypervisor at all"},
	}
	for _, c := range cases {
		t.Run(c.from+" to "+c.to, func(t *testing.T) {
			files := tree{c.from: file("x", "@/"+c.to)}
			expect(t, files.check(t), "arrow", c.from, c.why)
		})
	}
}

// expect wants exactly one violation of the rule, at the place, that says why; or
// none of the rule when why is empty.
func expect(t *testing.T, got []Violation, rule, where, why string) {
	t.Helper()
	var of []Violation
	for _, v := range got {
		if v.Rule == rule {
			of = append(of, v)
		}
	}
	switch {
	case why == "" && len(of) == 0:
	case why == "":
		t.Errorf("violations %v, want none", of)
	case len(of) != 1:
		t.Errorf("%d violations of %q in %v, want one", len(of), rule, got)
	case !strings.HasPrefix(of[0].Where, where) || !strings.Contains(of[0].What, why):
		t.Errorf("got %v, want one at %s that says %q", of[0], where, why)
	}
}

// Every import form of the same package counts, and other modules' never do.
func TestArrowForms(t *testing.T) {
	const head = "// Package nbd is one.\npackage nbd\n"
	for _, text := range []string{
		`import "example.com/m/migrate"`, `import m "example.com/m/migrate"`,
		`import . "example.com/m/migrate"`, `import _ "example.com/m/migrate"`,
	} {
		expect(t, tree{"migrate/nbd/a.go": head + text}.check(t), "arrow", "migrate/nbd/a.go", "imports migrate:")
	}
	expect(t, tree{"migrate/nbd/a.go": file("nbd", "example.com/other/migrate", "io")}.check(t), "arrow", "", "")
}

// The other rules: one file, what it breaks, and what the complaint says.
func TestRules(t *testing.T) {
	long := strings.Repeat("\t_ = 0\n", maxFuncLines)
	cases := []struct {
		name, file, text, rule, why string
	}{
		{"package without a row", "migrate/teleport/a.go", file("teleport"), "arrow", "add one to arrows"},
		{"folder at the top", "pkg/a.go", file("a"), "top", "belongs at the top"},
		{"folder at the top without Go files", "docs/a.md", "", "top", "belongs at the top"},
		{"build is ignored", "build/cache/a.go", file("a"), "top", ""},
		{"package called util", "qmp/util/a.go", file("util"), "name", "does not say what is in it"},
		{"folder called common", "qmp/common/a.go", file("text"), "name", "does not say what is in it"},
		{"no package comment", "qmp/a.go", "package qmp\n", "doc", "no package comment"},
		{"package comment", "qmp/a.go", file("qmp"), "doc", ""},
		{"unsafe", "migrate/ram/a.go", file("ram", "unsafe"), "unsafe", "internal/sys"},
		{"unsafe in a test", "migrate/ram/a_test.go", file("ram", "unsafe"), "unsafe", "internal/sys"},
		{"unsafe where it may be", "internal/sys/a.go", file("sys", "unsafe"), "unsafe", ""},
		{"raw system call", "qmp/a.go", file("qmp") + "import \"golang.org/x/sys/unix\"\nfunc f() { unix.Syscall(1, 2, 3, 4) }\n",
			"unsafe", "raw system call (Syscall)"},
		{"raw system call by another name", "qmp/a.go", file("qmp") + "import u \"syscall\"\nvar f = u.RawSyscall6\n",
			"unsafe", "raw system call (RawSyscall6)"},
		{"typed system call", "qmp/a.go", file("qmp") + "import \"golang.org/x/sys/unix\"\nvar f = unix.Getpid\n", "unsafe", ""},
		{"exit", "qmp/a.go", file("qmp") + "import \"os\"\nfunc f() { os.Exit(1) }\n", "exit", "os.Exit"},
		{"fatal log", "qmp/a.go", file("qmp") + "import \"log\"\nfunc f() { log.Fatalf(\"x\") }\n", "exit", "log.Fatalf"},
		{"exit of a command", "cmd/vmmigrate/a.go", file("main") + "import \"os\"\nfunc main() { os.Exit(1) }\n", "exit", ""},
		{"exit by exception", "testenv/a.go", file("testenv") + "import \"os\"\nfunc Init() { os.Exit(1) }\n", "exit", ""},
		{"exit beside the exception", "testenv/a.go", file("testenv") + "import \"os\"\nfunc Up() { os.Exit(1) }\n", "exit", "os.Exit"},
		{"exit in a test", "qmp/a_test.go", file("qmp") + "import \"os\"\nfunc f() { os.Exit(1) }\n", "exit", "os.Exit"},
		{"exit in TestMain", "qmp/a_test.go", file("qmp") + "import \"os\"\nfunc TestMain() { os.Exit(1) }\n", "exit", ""},
		{"exit in what TestMain calls", "qmp/a_test.go",
			file("qmp") + "import \"os\"\nfunc TestMain() { child() }\nfunc child() { os.Exit(1) }\n", "exit", ""},
		{"exit in what TestMain does not call", "qmp/a_test.go",
			file("qmp") + "import \"os\"\nfunc TestMain() { child() }\nfunc child() {}\nfunc f() { os.Exit(1) }\n", "exit", "os.Exit"},
		{"exit of a test's child", "qmp/a_test.go",
			file("qmp") + "import \"os\"\nfunc f() { if os.Getenv(\"CHILD\") != \"\" { os.Exit(1) } }\n", "exit", ""},
		{"exit after a test's child", "qmp/a_test.go",
			file("qmp") + "import \"os\"\nfunc f() { if os.Getenv(\"CHILD\") != \"\" { return }; os.Exit(1) }\n", "exit", "os.Exit"},
		{"long function", "qmp/a.go", file("qmp") + "func f() {\n" + long + "}\n", "size", "f has 82 lines"},
		{"long test", "qmp/a_test.go", file("qmp") + "func f() {\n" + long + "}\n", "size", ""},
		{"long file", "qmp/a.go", file("qmp") + strings.Repeat("\n", maxFileLines), "size", "402 lines"},
		{"long generated file", "qmp/a.go", "// Code generated by x. DO NOT EDIT.\n\n" + file("qmp") + strings.Repeat("\n", maxFileLines), "size", ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			where := c.file
			if i := strings.Index(c.file, "/"); c.rule == "top" {
				where = c.file[:i]
			} else if c.rule == "name" || c.rule == "doc" || c.rule == "arrow" {
				where = c.file[:strings.LastIndex(c.file, "/")]
			}
			expect(t, tree{c.file: c.text}.check(t), c.rule, where, c.why)
		})
	}
}

// Exported names need a comment where others can import them.
func TestExportedDocs(t *testing.T) {
	cases := []struct {
		file, decl string
		want       string // the name complained of
	}{
		{"qmp/a.go", "func Dial() {}", "Dial"},
		{"qmp/a.go", "// Dial dials.\nfunc Dial() {}", ""},
		{"qmp/a.go", "func dial() {}", ""},
		{"qmp/a.go", "type Client struct{}", "Client"},
		{"qmp/a.go", "// Client is one.\ntype Client struct{}", ""},
		{"qmp/a.go", "// Of two types.\ntype (\n\tA int\n)", "A"},
		{"qmp/a.go", "// C is one.\ntype C int\nfunc (C) Close() {}", "Close"},
		{"qmp/a.go", "// C is one.\ntype C[T any] struct{}\nfunc (*C[T]) Close() {}", "Close"},
		{"qmp/a.go", "// C is one.\ntype C int\nfunc (C) String() string { return \"\" }", ""},
		{"qmp/a.go", "type c int\nfunc (*c) Close() {}", ""},
		{"qmp/a.go", "var ErrGone = 1", "ErrGone"},
		{"qmp/a.go", "const (\n\tA = 1 // the first\n\tB = 2\n)", "B"},
		{"qmp/a.go", "// The two.\nconst (\n\tA = 1\n\tB = 2\n)", ""},
		{"qmp/a_test.go", "func Dial() {}", ""},
		{"testenv/internal/layout/a.go", "func Dial() {}", ""},
	}
	for _, c := range cases {
		t.Run(c.decl, func(t *testing.T) {
			got := tree{c.file: file("qmp") + c.decl + "\n"}.check(t)
			why := c.want
			if why != "" {
				why += " is exported without a comment"
			}
			expect(t, got, "doc", c.file+":", why)
		})
	}
}

// What Go does not look at is not judged either; what does not parse is an error.
func TestLoad(t *testing.T) {
	files := tree{
		"qmp/doc.go":              file("qmp"),
		"qmp/x_test.go":           "package qmp_test\n",
		"qmp/testdata/bad/a.go":   "no Go",
		"qmp/_draft/a.go":         "no Go",
		".ci/a.go":                "no Go",
		"internal/other/go.mod":   "module other\n",
		"internal/other/a.go":     "no Go",
		"build/gomod/x@v1/bad.go": "no Go",
	}
	loaded, err := Load(files.fs())
	if err != nil {
		t.Fatal(err)
	}
	if len(loaded.Packages) != 1 || loaded.Packages[0].Name != "qmp" || len(loaded.Packages[0].Files) != 2 {
		t.Errorf("packages %+v, want qmp alone, with two files", loaded.Packages)
	}
	if v := loaded.Check(); len(v) != 0 {
		t.Errorf("violations %v, want none", v)
	}
	if _, err := Load(tree{"qmp/a.go": "no Go"}.fs()); err == nil {
		t.Error("a file that does not parse was accepted")
	}
	if _, err := Load(fstest.MapFS{}); err == nil {
		t.Error("a folder without go.mod was accepted")
	}
}

// A row that nothing can match, or that is there twice, is a mistake in the table.
func TestTable(t *testing.T) {
	seen := make(map[string]bool)
	for _, a := range arrows() {
		if seen[a.of] {
			t.Errorf("two rows for %s", a.of)
		}
		seen[a.of] = true
		if a.why == "" {
			t.Errorf("the row of %s gives no reason", a.of)
		}
	}
	for _, a := range arrows() {
		for _, target := range a.may {
			if _, ok := arrowOf(strings.TrimSuffix(target, "/...")); !ok && target != "migrate/..." {
				t.Errorf("%s may import %s, which has no row", a.of, target)
			}
		}
	}
	for _, e := range mayExit() {
		if e.why == "" {
			t.Errorf("the exception for %s.%s gives no reason", e.dir, e.fn)
		}
	}
}
