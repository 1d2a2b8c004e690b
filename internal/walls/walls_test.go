package walls

import (
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/go/packages"
)

// load lists the module's packages without tests: a test may cross walls to use a neighbour's real thing.
func load(t *testing.T) []*packages.Package {
	t.Helper()
	cfg := &packages.Config{Mode: packages.NeedName | packages.NeedImports | packages.NeedFiles, Dir: "../.."}
	pkgs, err := packages.Load(cfg, "./...")
	if err != nil {
		t.Fatalf("list packages: %v", err)
	}
	if packages.PrintErrors(pkgs) > 0 {
		t.Fatal("list packages: see the errors above")
	}
	return pkgs
}

// room finds the room that a package of this module belongs to: itself or the nearest listed parent.
func room(path string) (string, bool) {
	path, ok := strings.CutPrefix(path, Module+"/")
	if !ok {
		return "", false
	}
	for p := path; ; {
		if _, ok := rooms[p]; ok {
			return p, true
		}
		i := strings.LastIndexByte(p, '/')
		if i < 0 {
			return path, false
		}
		p = p[:i]
	}
}

// within says whether an import path is the package or one below it.
func within(path, pkg string) bool { return path == pkg || strings.HasPrefix(path, pkg+"/") }

func TestRoomsImportOnlyFromLowerFloors(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range load(t) {
		from, ok := room(p.PkgPath)
		if !ok {
			t.Errorf("%s is in no room: give it a floor in walls.go", p.PkgPath)
			continue
		}
		seen[from] = true
		for path := range p.Imports {
			checkImport(t, from, path)
		}
	}
	for r := range rooms {
		if !seen[r] {
			t.Errorf("room %s is listed but empty", r)
		}
	}
}

// double says whether a package is for tests.
func double(path string) bool { return strings.HasSuffix(path, doubles) }

// TestNoDoubleIsInTheProduct keeps what stands in for disks, networks and hosts out of all that is installed.
func TestNoDoubleIsInTheProduct(t *testing.T) {
	for _, p := range load(t) {
		from, _ := room(p.PkgPath)
		if double(p.PkgPath) || slices.Contains(mayUseDoubles, from) {
			continue
		}
		for path := range p.Imports {
			if within(path, Module) && double(path) || path == "testing" {
				t.Errorf("%s imports %s, which is for tests", p.PkgPath, path)
			}
		}
	}
}

func checkImport(t *testing.T, from, path string) {
	t.Helper()
	for pkg, owner := range onlyImporter {
		if within(path, pkg) && from != owner {
			t.Errorf("%s imports %s: only %s may", from, path, owner)
		}
	}
	if slices.Contains(pure[from], path) {
		t.Errorf("%s imports %s: it is a pure room", from, path)
	}
	if within(path, Module+"/"+messages) && !slices.Contains(mayUseMessages, from) {
		t.Errorf("%s imports %s: it works with plain Go values", from, path)
	}
	to, ok := room(path)
	if !ok || to == from || slices.Contains(vocabulary, to) {
		return
	}
	for _, banned := range noImport[from] {
		if within(to, banned) {
			t.Errorf("%s imports %s, which is none of its business", from, to)
		}
	}
	if rooms[to].floor >= rooms[from].floor && !slices.Contains(rooms[from].beside, to) {
		t.Errorf("%s (floor %d) imports %s (floor %d)", from, rooms[from].floor, to, rooms[to].floor)
	}
}

// TestEveryPackageSaysWhatItIsFor wants exactly one package comment in each package, in the usual form.
func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for _, p := range load(t) {
		var docs []string
		name := ""
		for _, file := range p.GoFiles {
			f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.PackageClauseOnly)
			if err != nil {
				t.Fatal(err)
			}
			name = f.Name.Name
			if f.Doc != nil && !ast.IsGenerated(f) {
				docs = append(docs, f.Doc.Text())
			}
		}
		if generated(p) {
			continue
		}
		want := "Package " + name + " "
		if name == "main" {
			want = "Command " + p.PkgPath[strings.LastIndexByte(p.PkgPath, '/')+1:] + " "
		}
		if len(docs) != 1 || !strings.HasPrefix(docs[0], want) {
			t.Errorf("%s: has %d package comments, want one that begins with %q", p.PkgPath, len(docs), want)
		}
	}
}

// generated says whether all files of a package were written by a generator.
func generated(p *packages.Package) bool {
	for _, file := range p.GoFiles {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
		if err != nil || !ast.IsGenerated(f) {
			return false
		}
	}
	return len(p.GoFiles) > 0
}

// flag is a command line flag in a text.
var flag = regexp.MustCompile(`(^|[^-\w])--[a-z]`)

// TestOnlyToolsKnowFlags keeps the flags of command line tools out of what daemons say.
func TestOnlyToolsKnowFlags(t *testing.T) {
	for _, p := range load(t) {
		from, _ := room(p.PkgPath)
		if slices.Contains(knowFlags, from) || double(p.PkgPath) {
			continue
		}
		for _, file := range p.GoFiles {
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, file, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(f, func(n ast.Node) bool {
				if text, ok := n.(*ast.BasicLit); ok && text.Kind == token.STRING && flag.MatchString(text.Value) {
					t.Errorf("%s: %s names a flag: name the field of the request in back quotes", fset.Position(text.Pos()), text.Value)
				}
				return true
			})
		}
	}
}
