package arch

import (
	"fmt"
	"go/ast"
	"go/token"
	"slices"
	"strings"
)

// selfEvident lists methods whose name says all: those of fmt, errors and sort.
func selfEvident() []string { return []string{"String", "Error", "Unwrap"} }

// checkDocs looks for exported names without a comment. What only this module can
// import, and commands, are left to taste.
func checkDocs(p *Package, f *File) []Violation {
	if f.Test || f.Generated || p.Name == "main" || slices.Contains(strings.Split(p.Dir, "/"), "internal") {
		return nil
	}
	var out []Violation
	missing := func(name string, at ast.Node) {
		out = append(out, Violation{"doc", f.at(at), fmt.Sprintf(
			"%s is exported without a comment; say what it is, its units and errors, and who owns what it returns", name)})
	}
	for _, decl := range f.syntax.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			if d.Doc == nil && d.Name.IsExported() && onExported(d) {
				missing(d.Name.Name, d)
			}
		case *ast.GenDecl:
			if d.Doc != nil && d.Tok != token.TYPE {
				continue // one comment may speak for a group of values
			}
			for _, spec := range d.Specs {
				if name := undocumented(d, spec); name != "" {
					missing(name, spec)
				}
			}
		}
	}
	return out
}

// onExported is whether a function is one that importers can call and whose name
// does not already say all.
func onExported(fn *ast.FuncDecl) bool {
	if fn.Recv == nil {
		return true
	}
	base := fn.Recv.List[0].Type
	if star, ok := base.(*ast.StarExpr); ok {
		base = star.X
	}
	if index, ok := base.(*ast.IndexExpr); ok {
		base = index.X // a generic type
	}
	id, ok := base.(*ast.Ident)
	return ok && id.IsExported() && !slices.Contains(selfEvident(), fn.Name.Name)
}

// undocumented returns the first exported name of a spec that has no comment, or
// nothing.
func undocumented(d *ast.GenDecl, spec ast.Spec) string {
	switch s := spec.(type) {
	case *ast.TypeSpec:
		if s.Name.IsExported() && s.Doc == nil && s.Comment == nil && (d.Doc == nil || d.Lparen.IsValid()) {
			return s.Name.Name
		}
	case *ast.ValueSpec:
		for _, name := range s.Names {
			if name.IsExported() && s.Doc == nil && s.Comment == nil {
				return name.Name
			}
		}
	}
	return ""
}
