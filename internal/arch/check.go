package arch

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Violation is one thing that breaks a rule.
type Violation struct {
	// Rule is a short name of what is broken, such as "arrow".
	Rule string
	// Where is a folder, a file, or a file and line.
	Where string
	// What is wrong, why that is a rule, and what to do.
	What string
}

// String is the violation in one line.
func (v Violation) String() string { return fmt.Sprintf("%s: %s: %s", v.Where, v.Rule, v.What) }

// Check returns all that breaks a rule, in the order of packages.
func (t *Tree) Check() []Violation {
	var all []Violation
	all = append(all, t.checkTop()...)
	for _, p := range t.Packages {
		all = append(all, t.checkArrows(p)...)
		all = append(all, checkNames(p)...)
		for _, f := range p.Files {
			all = append(all, checkDanger(p, f)...)
			all = append(all, checkExits(p, f)...)
			all = append(all, checkDocs(p, f)...)
			all = append(all, checkSize(f)...)
		}
	}
	return all
}

// checkTop looks for folders at the top that the design does not list.
func (t *Tree) checkTop() []Violation {
	var out []Violation
	for _, dir := range t.Top {
		if !slices.Contains(topFolders(), dir) {
			out = append(out, Violation{"top", dir, fmt.Sprintf(
				"no such folder belongs at the top (%s do); put it inside one of them, or add it to topFolders with a reason in the commit",
				strings.Join(topFolders(), ", "))})
		}
	}
	return out
}

// checkArrows looks for imports that point the wrong way.
func (t *Tree) checkArrows(p *Package) []Violation {
	row, ok := arrowOf(p.Dir)
	if !ok {
		return []Violation{{"arrow", p.Dir,
			"this package has no row in internal/arch/rules.go; add one to arrows that says what it may import, and why"}}
	}
	var out []Violation
	for _, f := range p.Files {
		for _, target := range slices.Sorted(maps.Values(f.imports())) {
			dir, ours := strings.CutPrefix(target, t.Module+"/")
			if !ours || dir == p.Dir {
				continue
			}
			if what := judge(p.Dir, dir, row, f.Test); what != "" {
				out = append(out, Violation{"arrow", f.Path, fmt.Sprintf("imports %s: %s", dir, what)})
			}
		}
	}
	return out
}

// judge returns what is wrong with an import, or nothing.
func judge(from, to string, row arrow, test bool) string {
	for _, pair := range apart() {
		if covers(pair[0], from) && covers(pair[1], to) || covers(pair[1], from) && covers(pair[0], to) {
			return row.why
		}
	}
	if test && isTestKit(to) {
		return ""
	}
	if !test {
		if what := judgeReserved(from, to); what != "" {
			return what
		}
	}
	sameFolder := strings.HasSuffix(row.of, "/...") && covers(row.of, to)
	kitOfAllowed := isTestKit(from) && isTestKit(to)
	if sameFolder || kitOfAllowed || anyCovers(row.may, to) {
		return ""
	}
	return row.why
}

// judgeReserved returns what is wrong with the use of a package made for tests in
// a file that is no test, or nothing.
func judgeReserved(from, to string) string {
	for _, r := range reservations() {
		if covers(r.pkg, to) && !anyCovers(r.by, from) && !isTestKit(from) {
			return r.why
		}
	}
	if strings.HasSuffix(to, "test") && !isTestKit(from) {
		return "packages whose names end in test are for tests"
	}
	return ""
}

// checkNames looks for names that say nothing, and packages that say nothing of
// themselves.
func checkNames(p *Package) []Violation {
	var out []Violation
	for _, part := range append(strings.Split(p.Dir, "/"), p.Name) {
		if slices.Contains(vagueNames(), part) {
			out = append(out, Violation{"name", p.Dir,
				fmt.Sprintf("%q does not say what is in it; name it after what it provides", part)})
			break
		}
	}
	if !documented(p) {
		out = append(out, Violation{"doc", p.Dir,
			"has no package comment; say in doc.go what it is for, what it owns, what half-failure leaves, and what it does not do"})
	}
	return out
}

// documented is whether some file of the package has a package comment, other
// than a test when there is another.
func documented(p *Package) bool {
	onlyTests := !slices.ContainsFunc(p.Files, func(f *File) bool { return !f.Test })
	return slices.ContainsFunc(p.Files, func(f *File) bool {
		return (onlyTests || !f.Test) && strings.TrimSpace(f.syntax.Doc.Text()) != ""
	})
}
