package arch

import (
	"fmt"
	"go/ast"
	"maps"
	"regexp"
	"slices"
)

// rawCalls are the functions that make a system call by number.
var rawCalls = regexp.MustCompile(`^(Raw)?Syscall(6|9|N|NoError)?$`)

// fatalCalls are the functions of package log that end the process.
var fatalCalls = regexp.MustCompile(`^Fatal(f|ln)?$`)

// checkDanger looks for unsafe code and raw system calls outside internal/sys.
func checkDanger(p *Package, f *File) []Violation {
	if p.Dir == sys {
		return nil
	}
	var out []Violation
	const fix = "only internal/sys may: add a typed function there, with a test, and call it"
	if slices.Contains(slices.Collect(maps.Values(f.imports())), "unsafe") {
		out = append(out, Violation{"unsafe", f.Path, "imports unsafe; " + fix})
	}
	for _, u := range f.uses(f.syntax) {
		fromKernel := u.pkg == "syscall" || u.pkg == "golang.org/x/sys/unix"
		if fromKernel && rawCalls.MatchString(u.name) {
			out = append(out, Violation{"unsafe", f.at(u.node), fmt.Sprintf("makes a raw system call (%s); %s", u.name, fix)})
		}
	}
	return out
}

// checkExits looks for code that ends the process and is neither in a command
// nor, in a test, in TestMain, in what it calls, or in what a test does as its own
// child process.
func checkExits(p *Package, f *File) []Violation {
	if p.Name == "main" && !f.Test {
		return nil
	}
	var out []Violation
	for _, decl := range f.syntax.Decls {
		if fn, ok := decl.(*ast.FuncDecl); ok && exits(p, f, fn.Name.Name) {
			continue
		}
		for _, u := range f.uses(decl) {
			ends := u.pkg == "os" && u.name == "Exit" || u.pkg == "log" && fatalCalls.MatchString(u.name)
			if ends && !(f.Test && f.inChild(decl, u.node)) {
				out = append(out, Violation{"exit", f.at(u.node), fmt.Sprintf(
					"%s.%s ends the process of whoever calls; return an error, and let a command or TestMain decide", u.pkg, u.name)})
			}
		}
	}
	return out
}

// exits is whether a function is made to end the process.
func exits(p *Package, f *File, fn string) bool {
	if f.Test {
		return fn == "TestMain" || slices.Contains(f.calledBy("TestMain"), fn)
	}
	return slices.ContainsFunc(mayExit(), func(e exception) bool { return e.dir == p.Dir && e.fn == fn })
}

// calledBy returns the functions that a function of the same file calls by name.
func (f *File) calledBy(caller string) []string {
	var names []string
	for _, decl := range f.syntax.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok || fn.Name.Name != caller || fn.Body == nil {
			continue
		}
		ast.Inspect(fn.Body, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				if id, ok := call.Fun.(*ast.Ident); ok {
					names = append(names, id.Name)
				}
			}
			return true
		})
	}
	return names
}

// inChild is whether a node stands below an if that asks the environment, as in
// a test that starts itself again with a variable set.
func (f *File) inChild(root, node ast.Node) bool {
	found := false
	ast.Inspect(root, func(n ast.Node) bool {
		branch, ok := n.(*ast.IfStmt)
		if !ok || node.Pos() < branch.Body.Pos() || node.Pos() > branch.Body.End() {
			return true
		}
		for _, part := range []ast.Node{branch.Init, branch.Cond} {
			if part == nil {
				continue
			}
			for _, u := range f.uses(part) {
				found = found || u.pkg == "os" && (u.name == "Getenv" || u.name == "LookupEnv")
			}
		}
		return true
	})
	return found
}

// checkSize looks for files and functions that grew too long to be read at once.
func checkSize(f *File) []Violation {
	if f.Test || f.Generated {
		return nil
	}
	var out []Violation
	if f.Lines > maxFileLines {
		out = append(out, Violation{"size", f.Path,
			fmt.Sprintf("has %d lines, %d at most; split it where the ideas part", f.Lines, maxFileLines)})
	}
	for _, decl := range f.syntax.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok {
			continue
		}
		lines := f.fset.Position(fn.End()).Line - f.fset.Position(fn.Pos()).Line + 1
		if lines > maxFuncLines {
			out = append(out, Violation{"size", f.at(fn),
				fmt.Sprintf("%s has %d lines, %d at most; give its steps names", fn.Name.Name, lines, maxFuncLines)})
		}
	}
	return out
}

// use is a mention of another package's name, such as os.Exit.
type use struct {
	pkg, name string
	node      ast.Node
}

// uses returns the mentions of imported packages' names below a node.
func (f *File) uses(root ast.Node) []use {
	imports := f.imports()
	var out []use
	ast.Inspect(root, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if id, ok := sel.X.(*ast.Ident); ok && imports[id.Name] != "" {
			out = append(out, use{imports[id.Name], sel.Sel.Name, sel})
		}
		return true
	})
	return out
}
