package config

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/waggle-im/waggle/internal/daemon"
)

const cellYAML = `
role: cell
node: c1-n1
data_dir: /tmp/x
listen: 127.0.0.1:1
etcd:
  endpoints: [https://127.0.0.1:2]
tls:
  cert: a
  key: b
  ca: c
cell:
  name: c1
  cache_bytes: 1000
  memtable_bytes: 2000
  messages_burst: 7
`

func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "node.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Every field has its line in the table and every line its field, with a
// comment and a default of the field's type.
func TestTableIsComplete(t *testing.T) {
	want := slices.Sorted(maps.Keys(fields(reflect.TypeFor[daemon.Config](), "")))
	var have []string
	env := map[string]string{}
	for _, k := range Keys() {
		have = append(have, k.Name)
		if k.Help == "" {
			t.Errorf("%s has no comment", k.Name)
		}
		if k.kind == nil {
			t.Fatalf("%s is not a field of daemon.Config", k.Name)
		}
		for _, v := range []any{k.Default, k.Example} {
			if v != nil && reflect.TypeOf(v) != k.kind {
				t.Errorf("%s: %v is %T, the field %s", k.Name, v, v, k.kind)
			}
		}
		if other := env[k.EnvName()]; other != "" {
			t.Errorf("%s and %s share %s", other, k.Name, k.EnvName())
		}
		env[k.EnvName()] = k.Name
	}
	slices.Sort(have)
	if !slices.Equal(have, want) {
		t.Errorf("keys.go has\n%v\ndaemon.Config has\n%v", have, want)
	}
}

func TestPrecedence(t *testing.T) {
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	AddFlags(flags)
	if err := flags.Parse([]string{"--cell.cache_bytes=3000", "--cell.roles=chat,storage"}); err != nil {
		t.Fatal(err)
	}
	c, err := Load(Sources{Role: "cell", File: write(t, cellYAML), Flags: flags, Environ: []string{
		"WAGGLE_CELL_CACHE_BYTES=1", "WAGGLE_CELL_MEMTABLE_BYTES=2500", "WAGGLE_ETCD_ENDPOINTS=https://a:1, https://b:2",
		"WAGGLE_SERVER=not a key of a node", "HOME=/nowhere",
	}})
	if err != nil {
		t.Fatal(err)
	}
	if c.Cell.CacheBytes != 3000 || c.Cell.MemtableBytes != 2500 || c.Cell.MessagesBurst != 7 || c.Cell.MessagesPerSecond != 100 {
		t.Errorf("flag 3000, environment 2500, file 7, default 100: got %+v", c.Cell)
	}
	if !slices.Equal(c.Etcd.Endpoints, []string{"https://a:1", "https://b:2"}) || !slices.Equal(c.Cell.Roles, []string{"chat", "storage"}) {
		t.Errorf("lists: %v %v", c.Etcd.Endpoints, c.Cell.Roles)
	}
	if c.Log.Level != "info" || c.Admin != "127.0.0.1:7480" || c.Mode != "production" {
		t.Errorf("defaults: %+v", c)
	}
}

// The defaults stand aside where a file says less than they do.
func TestBlankIsDefault(t *testing.T) {
	c, err := Load(Sources{File: write(t, cellYAML+"log:\nadmin:\nedge: {}\n")})
	if err != nil || c.Log.Level != "info" || c.Admin != "127.0.0.1:7480" {
		t.Fatalf("%+v, %v", c, err)
	}
	c, err = Load(Sources{File: write(t, cellYAML+"admin: \"\"\n")})
	if err != nil || c.Admin != "" {
		t.Fatalf("an empty text switches off: %+v, %v", c, err)
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		name, file string
		environ    []string
		role       string
		want       []string
	}{
		{"misspelt", cellYAML + "egde:\n  listen: 1.2.3.4:5\n", nil, "", []string{"node.yaml", "egde.listen", "nearest is edge.listen"}},
		{"wrong section", cellYAML + "plaintext: 1.2.3.4:5\n", nil, "", []string{"node.yaml", "nearest is edge.plaintext"}},
		{"scalar as section", cellYAML + "log: debug\n", nil, "", []string{"node.yaml", "log: is a section", "log.level"}},
		{"unknown blank", cellYAML + "nodes:\n", nil, "", []string{"there is no key nodes", "nearest is node"}},
		{"no number", strings.Replace(cellYAML, "1000", "many", 1), nil, "", []string{"node.yaml", "cell.cache_bytes", "many is not a whole number"}},
		{"negative", cellYAML + "controlplane:\n  replicas: -1\n", nil, "", []string{"node.yaml", "controlplane.replicas", "-1"}},
		{"fraction", strings.Replace(cellYAML, "1000", "1.5", 1), nil, "", []string{"cell.cache_bytes", "1.5"}},
		{"number as text", strings.Replace(cellYAML, "c1-n1", "17", 1), nil, "", []string{"node: 17 is not a text"}},
		{"text as list", strings.Replace(cellYAML, "[https://127.0.0.1:2]", "https://127.0.0.1:2", 1), nil, "", []string{"etcd.endpoints", "[a, b]"}},
		{"missing", strings.Replace(cellYAML, "name: c1", "", 1), nil, "", []string{"node.yaml", "cell.name", "missing"}},
		{"bad value", cellYAML + "log:\n  level: loud\n", nil, "", []string{"node.yaml", "log.level", "loud"}},
		{"no YAML", "a: [", nil, "", []string{"node.yaml", "line 1"}},
		{"other role", cellYAML, nil, "edge", []string{"node.yaml", "role", "edge was asked for"}},
		{"unknown variable", cellYAML, []string{"WAGGLE_EGDE_LISTEN=x"}, "", []string{"WAGGLE_EGDE_LISTEN", "nearest is WAGGLE_EDGE_LISTEN"}},
		{"bad variable", cellYAML, []string{"WAGGLE_EDGE_EXEMPT_LOOPBACK=perhaps"}, "", []string{"environment", "WAGGLE_EDGE_EXEMPT_LOOPBACK", "perhaps"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Load(Sources{Role: c.role, File: write(t, c.file), Environ: c.environ})
			if err == nil {
				t.Fatal("accepted")
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q does not say %q", err, w)
				}
			}
		})
	}
	if _, err := Load(Sources{File: "/nowhere/x.yaml"}); err == nil || !strings.Contains(err.Error(), "/nowhere/x.yaml") {
		t.Errorf("a missing file: %v", err)
	}
}

// What print-default prints loads, validates, and has the values of the
// defaults.
func TestDefaultsLoadAgain(t *testing.T) {
	for _, role := range []string{"controlplane", "cell", "edge", "etcd"} {
		text, err := PrintDefault(role)
		if err != nil {
			t.Fatal(err)
		}
		file := write(t, text)
		c, err := Load(Sources{Role: role, File: file})
		if err != nil {
			t.Fatalf("%s: %v\n%s", role, err, text)
		}
		layers, err := Sources{File: file}.layers()
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range Keys() {
			v, printed := layers[0].values[k.Name]
			if printed != k.For(role) {
				t.Errorf("%s: %s printed: %v", role, k.Name, printed)
			}
			if _, isDefault := k.shown(role); printed && isDefault && !reflect.DeepEqual(v, k.value()) && !(k.List() && reflect.ValueOf(v).Len() == 0) {
				t.Errorf("%s: %s is printed as %v, its default is %v", role, k.Name, v, k.value())
			}
		}
		if c.Role != role {
			t.Errorf("role %s", c.Role)
		}
	}
	if _, err := PrintDefault("queen"); err == nil || !strings.Contains(err.Error(), "queen") {
		t.Errorf("unknown role: %v", err)
	}
}

func TestOverride(t *testing.T) {
	change, err := Override(write(t, "log:\n  level: debug\ncell:\n  messages_per_second: -1\n"),
		[]string{"WAGGLE_ADMIN=127.0.0.1:9", "WAGGLE_CELL_MESSAGES_BURST=9"})
	if err != nil {
		t.Fatal(err)
	}
	c := daemon.Config{Admin: "127.0.0.1:1", Log: daemon.LogConfig{Level: "warn", Format: "json"}, Cell: daemon.CellConfig{Name: "c1"}}
	if err := change(&c); err != nil {
		t.Fatal(err)
	}
	want := daemon.Config{Admin: "127.0.0.1:1", Log: daemon.LogConfig{Level: "debug", Format: "json"},
		Cell: daemon.CellConfig{Name: "c1", MessagesPerSecond: -1, MessagesBurst: 9}}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v", c)
	}
	if _, err := Override(write(t, "controlplane:\n  replicas: 3\n"), nil); err == nil || !strings.Contains(err.Error(), "use --replicas") {
		t.Errorf("a key of one node: %v", err)
	}
	nothing, err := Override("", nil)
	if err != nil {
		t.Fatal(err)
	}
	before := c
	if err := nothing(&c); err != nil || !reflect.DeepEqual(c, before) {
		t.Errorf("nothing to change: %+v %v", c, err)
	}
}

func TestExplain(t *testing.T) {
	text, err := Explain("edge.listen")
	if err != nil || !strings.Contains(text, "WAGGLE_EDGE_LISTEN") || !strings.Contains(text, "--edge.listen") {
		t.Errorf("%s %v", text, err)
	}
	if text, err = Explain("controlplane.database"); err != nil || !strings.Contains(text, "flag:         none") {
		t.Errorf("a secret has no flag: %s %v", text, err)
	}
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	AddFlags(flags)
	if flags.Lookup("controlplane.database") != nil || flags.Lookup("edge.listen") == nil {
		t.Error("flags: secrets must have none, others one")
	}
	if _, err := Explain("edge.lisen"); err == nil || !strings.Contains(err.Error(), "nearest is edge.listen") {
		t.Errorf("misspelt: %v", err)
	}
	if _, err := Explain("edge"); err == nil || !strings.Contains(err.Error(), "edge.plaintext") {
		t.Errorf("section: %v", err)
	}
}
