// Command termpicture draws what a terminal shows as an SVG file:
//
//	tmux capture-pane -e -p -N -t NAME | go run ./termpicture > ../docs/pictures/chat.svg
//
// It knows the colours and attributes of SGR sequences, wide characters and
// emoji; nothing else of what a terminal can do is in a capture.
package main

import (
	"bufio"
	"fmt"
	"html"
	"os"
	"strconv"
	"strings"

	"github.com/rivo/uniseg"
)

const (
	cellWidth, cellHeight = 9, 19 // pixels
	margin                = 12
	fontSize              = 15
	ink, paper            = "#d8dee9", "#1b1f27"
)

// style is how the next characters look.
type style struct {
	fg, bg               string
	bold, faint, reverse bool
}

func main() {
	var lines []string
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		lines = append(lines, in.Text())
	}
	if err := in.Err(); err != nil {
		fmt.Fprintln(os.Stderr, "termpicture:", err)
		os.Exit(1)
	}
	body, columns := draw(lines)
	w, h := columns*cellWidth+2*margin, len(lines)*cellHeight+2*margin
	fmt.Printf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="ui-monospace, 'DejaVu Sans Mono', Menlo, monospace" font-size="%d">`+"\n", w, h, w, h, fontSize)
	fmt.Printf(`<rect width="100%%" height="100%%" rx="8" fill="%s"/>`+"\n%s</svg>\n", paper, body)
}

func draw(lines []string) (body string, columns int) {
	var b strings.Builder
	var st style // goes on from line to line
	for y, line := range lines {
		x := 0
		var runs []run
		runs, st = split(line, st)
		for _, run := range runs {
			text, st := run.text, run.style
			width := uniseg.StringWidth(text)
			drawRun(&b, x, y, width, text, st)
			x += width
		}
		columns = max(columns, x)
	}
	return b.String(), columns
}

func drawRun(b *strings.Builder, x, y, width int, text string, st style) {
	fg, bg := st.fg, st.bg
	if fg == "" {
		fg = ink
	}
	if st.reverse {
		if bg == "" {
			bg = paper
		}
		fg, bg = bg, fg
	}
	left, top := margin+x*cellWidth, margin+y*cellHeight
	if bg != "" {
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="%d" height="%d" fill="%s"/>`+"\n", left, top, width*cellWidth, cellHeight, bg)
	}
	if strings.TrimSpace(text) == "" {
		return
	}
	attributes := ""
	if st.bold {
		attributes += ` font-weight="bold"`
	}
	if st.faint {
		attributes += ` opacity="0.65"`
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" fill="%s"%s textLength="%d" lengthAdjust="spacingAndGlyphs" xml:space="preserve">%s</text>`+"\n",
		left, top+cellHeight-5, fg, attributes, width*cellWidth, html.EscapeString(text))
}

type run struct {
	text  string
	style style
}

// split cuts a line that begins in a style into runs of one style, and blanks from words, so that
// words stay where they are whatever font draws them.
func split(line string, st style) ([]run, style) {
	var out []run
	for line != "" {
		if rest, ok := strings.CutPrefix(line, "\x1b["); ok {
			end := strings.IndexFunc(rest, func(r rune) bool { return r >= '@' && r <= '~' })
			if end < 0 {
				return out, st
			}
			if rest[end] == 'm' {
				st = sgr(st, rest[:end])
			}
			line = rest[end+1:]
			continue
		}
		end := strings.IndexByte(line, '\x1b')
		if end < 0 {
			end = len(line)
		}
		if end == 0 { // an escape of another kind
			line = line[1:]
			continue
		}
		for text := line[:end]; text != ""; {
			blank := text[0] == ' '
			n := strings.IndexFunc(text, func(r rune) bool { return (r == ' ') != blank })
			if n < 0 {
				n = len(text)
			}
			out = append(out, run{text[:n], st})
			text = text[n:]
		}
		line = line[end:]
	}
	return out, st
}

// sgr applies the numbers of one "select graphic rendition" sequence.
func sgr(st style, numbers string) style {
	parts := strings.FieldsFunc(numbers, func(r rune) bool { return r == ';' || r == ':' })
	if len(parts) == 0 {
		return style{}
	}
	for i := 0; i < len(parts); i++ {
		n, _ := strconv.Atoi(parts[i])
		switch {
		case n == 0:
			st = style{}
		case n == 1:
			st.bold = true
		case n == 2:
			st.faint = true
		case n == 7:
			st.reverse = true
		case n == 22:
			st.bold, st.faint = false, false
		case n == 27:
			st.reverse = false
		case n >= 30 && n <= 37:
			st.fg = color(n - 30)
		case n >= 90 && n <= 97:
			st.fg = color(n - 90 + 8)
		case n >= 40 && n <= 47:
			st.bg = color(n - 40)
		case n >= 100 && n <= 107:
			st.bg = color(n - 100 + 8)
		case n == 39:
			st.fg = ""
		case n == 49:
			st.bg = ""
		case n == 38 || n == 48:
			var c string
			c, i = extended(parts, i)
			if n == 38 {
				st.fg = c
			} else {
				st.bg = c
			}
		}
	}
	return st
}

// extended reads a colour of 256 or of 16 million, and where it ends.
func extended(parts []string, i int) (string, int) {
	number := func(j int) int {
		if j >= len(parts) {
			return 0
		}
		n, _ := strconv.Atoi(parts[j])
		return n
	}
	if number(i+1) == 5 {
		return color(number(i + 2)), i + 2
	}
	return fmt.Sprintf("#%02x%02x%02x", number(i+2), number(i+3), number(i+4)), i + 4
}

// color is a colour of the usual palette of 256.
func color(n int) string {
	basic := []string{
		"#000000", "#cd3131", "#0dbc79", "#e5e510", "#2472c8", "#bc3fbc", "#11a8cd", "#e5e5e5",
		"#666666", "#f14c4c", "#23d18b", "#f5f543", "#3b8eea", "#d670d6", "#29b8db", "#ffffff",
	}
	switch {
	case n < len(basic):
		return basic[n]
	case n >= 232:
		grey := 8 + 10*(n-232)
		return fmt.Sprintf("#%02x%02x%02x", grey, grey, grey)
	}
	level := func(k int) int {
		if k == 0 {
			return 0
		}
		return 55 + 40*k
	}
	n -= 16
	return fmt.Sprintf("#%02x%02x%02x", level(n/36), level(n/6%6), level(n%6))
}
