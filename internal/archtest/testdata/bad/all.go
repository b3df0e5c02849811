package bad

import (
	"embed"
	"errors"
	"regexp"
	"sync"
	"sync/atomic"
)

func init() {}

func Unexplained() {}

type Thing struct{}

type (
	Grouped struct{}
	// Told is explained.
	Told struct{}
)

func (Thing) Unexplained() {}

func (hidden) Unexplained() {} // of a hidden type: allowed

type hidden struct{}

const Loose = 1

// Constants of a group share this comment.
const (
	One = 1
	Two = 2
)

func six(a, b, c int, d, e, f string) {}

func five(a, b, c int, d, e string) {}

type wide interface {
	A()
	B()
	C()
	D()
	E()
	F()
}

type long interface {
	Call(a, b, c, d, e, f int)
}

// Allowed.
var (
	_        error = nil
	errFixed       = errors.New("fixed")
	pattern        = regexp.MustCompile("x")
	table          = map[string]int{"a": 1}
	shadowed       = []int{1}
	// ErrShown is a sentinel.
	ErrShown = errors.New("shown")
)

//go:embed all.go
var files embed.FS

// Not allowed.
var (
	// Shown can be changed by anybody.
	Shown   = 1
	counter int
	count   = 1
	parts   = [2]int{1, 2}
	config  = struct{ a int }{1}
	pointed = 1
	emptied = map[string]int{"a": 1}
	cache   = map[string]int{}
	made    = make([]int, 3)
	lock    sync.Mutex
	pool    = sync.Pool{}
	flag    atomic.Pointer[int]
)

func change() *int {
	count++
	parts[1] = 2
	config.a = 3
	shadowed := []int{}
	shadowed[0] = 3
	delete(emptied, "a")
	return &pointed
}
