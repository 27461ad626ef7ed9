package arch

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Tree is the module as it stands in its files.
type Tree struct {
	// Module is the module's path.
	Module string
	// Top lists the folders at the top that belong to the repository.
	Top []string
	// Packages lists the folders with Go files, by path.
	Packages []*Package
}

// Package is a folder with Go files. A test package (name_test) counts as part
// of the package that it tests.
type Package struct {
	// Dir is the folder, relative to the top, with slashes.
	Dir string
	// Name is the name in its package clauses, without a _test suffix.
	Name  string
	Files []*File
}

// File is one parsed Go file.
type File struct {
	// Path is relative to the top.
	Path string
	// Test is whether the name ends in _test.go.
	Test bool
	// Generated is whether a comment says so in Go's agreed form.
	Generated bool
	// Lines is the number of lines in the file.
	Lines int

	syntax *ast.File
	fset   *token.FileSet
}

// Load parses the module in fsys. It leaves out folders that Go leaves out
// (testdata, names that begin with a dot or underscore), modules of their own, and
// what .gitignore names at the top. A file that does not parse is an error.
func Load(fsys fs.FS) (*Tree, error) {
	module, err := modulePath(fsys)
	if err != nil {
		return nil, err
	}
	tree := &Tree{Module: module}
	ignored := ignoredAtTop(fsys)
	err = fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case !d.IsDir():
			return tree.loadFile(fsys, name)
		case name == ".":
			return nil
		case slices.Contains(ignored, name):
			return fs.SkipDir
		}
		if !strings.Contains(name, "/") {
			tree.Top = append(tree.Top, name)
		}
		if skipDir(fsys, name) {
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("load the tree: %w", err)
	}
	return tree, nil
}

// skipDir is whether Go would not look for packages in the folder.
func skipDir(fsys fs.FS, name string) bool {
	base := path.Base(name)
	if base == "testdata" || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") {
		return true
	}
	_, err := fs.Stat(fsys, name+"/go.mod")
	return err == nil
}

// ignoredAtTop returns the folders that are not the repository's: git's own, and
// lines like "/build/" of .gitignore.
func ignoredAtTop(fsys fs.FS) []string {
	ignored := []string{".git"}
	text, err := fs.ReadFile(fsys, ".gitignore")
	if err != nil {
		return ignored // no such file is no such line
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "/") && strings.HasSuffix(line, "/") {
			ignored = append(ignored, strings.Trim(line, "/"))
		}
	}
	return ignored
}

func modulePath(fsys fs.FS) (string, error) {
	text, err := fs.ReadFile(fsys, "go.mod")
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if module, ok := strings.CutPrefix(strings.TrimSpace(line), "module "); ok {
			return strings.TrimSpace(module), nil
		}
	}
	return "", errors.New("find the module: go.mod names none")
}

// loadFile adds a Go file to the package of its folder.
func (t *Tree) loadFile(fsys fs.FS, name string) error {
	if !strings.HasSuffix(name, ".go") {
		return nil
	}
	text, err := fs.ReadFile(fsys, name)
	if err != nil {
		return err
	}
	fset := token.NewFileSet()
	syntax, err := parser.ParseFile(fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	p := t.packageAt(path.Dir(name))
	p.Files = append(p.Files, &File{
		Path:      name,
		Test:      strings.HasSuffix(name, "_test.go"),
		Generated: ast.IsGenerated(syntax),
		Lines:     strings.Count(string(text), "\n"),
		syntax:    syntax,
		fset:      fset,
	})
	p.Name = strings.TrimSuffix(syntax.Name.Name, "_test")
	return nil
}

// packageAt returns the package of a folder, a new one if need be.
func (t *Tree) packageAt(dir string) *Package {
	for _, p := range t.Packages {
		if p.Dir == dir {
			return p
		}
	}
	p := &Package{Dir: dir}
	t.Packages = append(t.Packages, p)
	return p
}

// imports returns the paths that a file imports, by the name it uses for them.
func (f *File) imports() map[string]string {
	byName := make(map[string]string, len(f.syntax.Imports))
	for _, spec := range f.syntax.Imports {
		target, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue // the parser would not have let it pass
		}
		name := path.Base(target)
		if spec.Name != nil {
			name = spec.Name.Name
		}
		if name == "_" || name == "." {
			name += target // several files may be imported so
		}
		byName[name] = target
	}
	return byName
}

// at is the place of a node, for messages.
func (f *File) at(n ast.Node) string {
	return fmt.Sprintf("%s:%d", f.Path, f.fset.Position(n.Pos()).Line)
}
