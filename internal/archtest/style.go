package archtest

import (
	"fmt"
	"go/ast"
	"go/token"
	"path"
	"slices"
	"strings"
)

// The limits of layout. Tests are held to the one of files only: a table of
// cases is data.
const (
	FileLinesMax        = 800
	FunctionLinesMax    = 70
	InterfaceMethodsMax = 5
	ParametersMax       = 5
)

// CheckStyle holds every package of the module at root to the rules of style.
func CheckStyle(root string) ([]Problem, error) {
	t, err := readTree(root)
	if err != nil {
		return nil, err
	}
	c := &style{tree: t}
	for _, f := range t.folders {
		c.folder(f)
	}
	return c.found, nil
}

type style struct {
	tree  *tree
	found []Problem
}

func (c *style) problem(rule, place, format string, args ...any) {
	c.found = append(c.found, Problem{rule, place, fmt.Sprintf(format, args...)})
}

func (c *style) folder(f folder) {
	if slices.Contains([]string{"util", "utils", "common", "base", "types", "model", "manager", "pkg"}, path.Base(f.path)) {
		c.problem("name", f.path, "says nothing about what the package is for")
	}
	docs, sources := 0, 0
	for _, source := range f.files {
		if source.test {
			c.lines(source)
			continue
		}
		sources++
		if source.ast.Doc != nil && !source.generated {
			docs++
		}
		if source.generated {
			continue
		}
		c.lines(source)
		for _, d := range source.ast.Decls {
			c.decl(f, source, d)
		}
	}
	if sources > 0 && docs != 1 {
		c.problem("doc", f.path, "the package has %d doc comments, it should have one", docs)
	}
}

func (c *style) lines(source file) {
	if source.lines > FileLinesMax && !source.generated {
		c.problem("file", source.path, "%d lines, at most %d", source.lines, FileLinesMax)
	}
}

func (c *style) decl(f folder, source file, d ast.Decl) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		c.function(source, d)
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				c.typeSpec(source, d, spec)
			case *ast.ValueSpec:
				c.values(f, source, d, spec)
			}
		}
	}
}

func (c *style) function(source file, d *ast.FuncDecl) {
	place := source.path + " " + d.Name.Name
	receiver := ""
	if d.Recv != nil && len(d.Recv.List) > 0 {
		receiver = typeName(d.Recv.List[0].Type)
		place = source.path + " " + receiver + "." + d.Name.Name
	}
	if d.Name.Name == "init" && d.Recv == nil {
		c.problem("init", place, "nothing may run before main: call it from where it is needed")
	}
	if d.Name.IsExported() && (receiver == "" || ast.IsExported(receiver)) && d.Doc == nil {
		c.problem("docstring", place, "is exported and not explained")
	}
	if n := d.Type.Params.NumFields(); n > ParametersMax {
		c.problem("parameters", place, "%d parameters, at most %d: use a struct", n, ParametersMax)
	}
	first, last := c.tree.fset.Position(d.Pos()).Line, c.tree.fset.Position(d.End()).Line
	if n := last - first + 1; n > FunctionLinesMax {
		c.problem("function", place, "%d lines, at most %d", n, FunctionLinesMax)
	}
}

// typeName is the name of a receiver's type.
func typeName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.StarExpr:
		return typeName(e.X)
	case *ast.IndexExpr:
		return typeName(e.X)
	case *ast.IndexListExpr:
		return typeName(e.X)
	}
	return ""
}

func (c *style) typeSpec(source file, d *ast.GenDecl, spec *ast.TypeSpec) {
	place := source.path + " " + spec.Name.Name
	if spec.Name.IsExported() && spec.Doc == nil && (d.Doc == nil || d.Lparen.IsValid()) {
		c.problem("docstring", place, "is exported and not explained")
	}
	i, ok := spec.Type.(*ast.InterfaceType)
	if !ok {
		return
	}
	if n := i.Methods.NumFields(); n > InterfaceMethodsMax {
		c.problem("interface", place, "%d methods, at most %d", n, InterfaceMethodsMax)
	}
	for _, m := range i.Methods.List {
		if f, ok := m.Type.(*ast.FuncType); ok && f.Params.NumFields() > ParametersMax {
			c.problem("parameters", place+"."+m.Names[0].Name, "%d parameters, at most %d: use a struct", f.Params.NumFields(), ParametersMax)
		}
	}
}

// values judges a var or const declaration. A group of constants may share
// one comment.
func (c *style) values(f folder, source file, d *ast.GenDecl, spec *ast.ValueSpec) {
	for i, name := range spec.Names {
		place := source.path + " " + name.Name
		if name.IsExported() && d.Doc == nil && spec.Doc == nil && spec.Comment == nil {
			c.problem("docstring", place, "is exported and not explained")
		}
		if d.Tok != token.VAR || name.Name == "_" {
			continue
		}
		var value ast.Expr
		if i < len(spec.Values) {
			value = spec.Values[i]
		}
		if embedded(d, spec) || sentinel(value) {
			continue
		}
		switch {
		case name.IsExported():
			c.problem("variable", place, "any package can change it: make it a function")
		case mutableType(spec.Type) || mutableValue(value):
			c.problem("variable", place, "its state is shared by the whole process: give it an owner")
		case value == nil || changed(f, spec, name.Name):
			c.problem("variable", place, "it is changed somewhere in its package: give it an owner")
		}
	}
}

// embedded tells a variable that the compiler fills in.
func embedded(d *ast.GenDecl, spec *ast.ValueSpec) bool {
	for _, doc := range []*ast.CommentGroup{d.Doc, spec.Doc} {
		if doc == nil {
			continue
		}
		for _, line := range doc.List {
			if strings.HasPrefix(line.Text, "//go:embed ") {
				return true
			}
		}
	}
	return false
}

// callOf is the package and function of a call, as in errors.New.
func callOf(e ast.Expr) string {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		return ""
	}
	switch fun := call.Fun.(type) {
	case *ast.Ident:
		return fun.Name
	case *ast.SelectorExpr:
		if x, ok := fun.X.(*ast.Ident); ok {
			return x.Name + "." + fun.Sel.Name
		}
	}
	return ""
}

func sentinel(value ast.Expr) bool {
	return slices.Contains([]string{"errors.New", "fmt.Errorf", "proto.Errorf"}, callOf(value))
}

// mutableValue tells values that are made to be filled later.
func mutableValue(value ast.Expr) bool {
	if call, ok := value.(*ast.CallExpr); ok && slices.Contains([]string{"make", "new"}, callOf(call)) {
		return true
	}
	if u, ok := value.(*ast.UnaryExpr); ok {
		return mutableValue(u.X)
	}
	if lit, ok := value.(*ast.CompositeLit); ok {
		_, isMap := lit.Type.(*ast.MapType)
		return mutableType(lit.Type) || isMap && len(lit.Elts) == 0
	}
	return false
}

// mutableType tells locks, pools and atomics.
func mutableType(e ast.Expr) bool {
	if i, ok := e.(*ast.IndexExpr); ok {
		e = i.X
	}
	s, ok := e.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	x, ok := s.X.(*ast.Ident)
	return ok && (x.Name == "sync" || x.Name == "atomic")
}

// changed tells whether the package assigns to the variable or to a part of
// it, or takes its address.
func changed(f folder, spec *ast.ValueSpec, name string) bool {
	found := false
	touches := func(e ast.Expr) {
		for {
			switch x := e.(type) {
			case *ast.IndexExpr:
				e = x.X
				continue
			case *ast.SelectorExpr:
				e = x.X
				continue
			case *ast.ParenExpr:
				e = x.X
				continue
			case *ast.StarExpr:
				e = x.X
				continue
			case *ast.Ident:
				// Resolved in its file: to the variable or to something
				// local. Unresolved: it is declared in another file.
				if x.Name == name && (x.Obj == nil || x.Obj.Decl == spec) {
					found = true
				}
			}
			return
		}
	}
	for _, source := range f.files {
		ast.Inspect(source.ast, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.AssignStmt:
				if n.Tok != token.DEFINE {
					for _, left := range n.Lhs {
						touches(left)
					}
				}
			case *ast.IncDecStmt:
				touches(n.X)
			case *ast.UnaryExpr:
				if n.Op == token.AND {
					touches(n.X)
				}
			case *ast.CallExpr:
				if callOf(n) == "delete" || callOf(n) == "clear" {
					touches(n.Args[0])
				}
			}
			return true
		})
	}
	return found
}
