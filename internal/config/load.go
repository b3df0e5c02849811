package config

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/providers/posflag"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"

	"github.com/waggle-im/waggle/internal/daemon"
)

// Sources is where a configuration comes from. Each may be left out.
type Sources struct {
	Role    string         // what the node is to be; a file that says otherwise is refused
	File    string         // YAML
	Environ []string       // NAME=VALUE, as of os.Environ
	Flags   *pflag.FlagSet // those of [AddFlags]; only the ones given count
}

// Load reads a node's configuration and validates it. Errors name the file,
// variable or flag, and the key.
func Load(s Sources) (daemon.Config, error) {
	var c daemon.Config
	layers, err := s.layers()
	if err != nil {
		return c, err
	}
	merged := koanf.New(".")
	for _, k := range Keys() {
		if err := merged.Set(k.Name, k.value()); err != nil {
			return c, fmt.Errorf("config: default of %s: %w", k.Name, err)
		}
	}
	for _, l := range layers {
		if err := l.into(merged); err != nil {
			return c, err
		}
	}
	if err := merged.Unmarshal("", &c); err != nil {
		return c, fmt.Errorf("config: %w", err)
	}
	if c.Role == "" {
		c.Role = s.Role
	}
	where := s.File
	if where == "" {
		where = "configuration"
	}
	if s.Role != "" && c.Role != s.Role {
		return c, fmt.Errorf("%s: role: is %q, but %s was asked for", where, c.Role, s.Role)
	}
	if err := c.Validate(); err != nil {
		return c, fmt.Errorf("%s: %w", where, err)
	}
	return c, nil
}

// Override is a change that sets what a file and the environment set, for the
// nodes of a development cluster. file may be empty. Keys that differ between
// nodes are refused with the way to set them.
func Override(path string, environ []string) (func(*daemon.Config) error, error) {
	layers, err := Sources{File: path, Environ: environ}.layers()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, l := range layers {
		for name := range l.values {
			k, err := Find(name)
			if err != nil {
				return nil, err
			}
			switch {
			case k.PerNode == "":
				names = append(names, name)
			case l.env && name == "admin": // operator verbs read it too
				delete(l.values, name)
			default:
				return nil, fmt.Errorf("%s: %s: cannot be set for all nodes of a development cluster: %s", l.source, l.called(k), k.PerNode)
			}
		}
	}
	return func(c *daemon.Config) error {
		if len(names) == 0 {
			return nil
		}
		merged := koanf.New(".")
		for _, l := range layers {
			if err := l.into(merged); err != nil {
				return err
			}
		}
		if err := merged.Unmarshal("", c); err != nil {
			return fmt.Errorf("config: %w", err)
		}
		return nil
	}, nil
}

// AddFlags adds a flag to flags for every key but secrets and the role.
func AddFlags(flags *pflag.FlagSet) {
	for _, k := range Keys() {
		switch {
		case k.Secret || k.Name == "role":
		case k.List():
			flags.StringSlice(k.Name, nil, k.Help)
		default:
			// One type for all: the table converts and its errors name the key.
			flags.String(k.Name, "", k.Help)
		}
	}
}

// layer is what one source sets, typed.
type layer struct {
	source string
	env    bool
	values map[string]any
}

// called is how the layer's source names k.
func (l layer) called(k Key) string {
	if l.env {
		return k.EnvName()
	}
	return k.Name
}

func (l layer) into(merged *koanf.Koanf) error {
	for name, v := range l.values {
		if err := merged.Set(name, v); err != nil {
			return fmt.Errorf("%s: %s: %w", l.source, name, err)
		}
	}
	return nil
}

// layers reads the sources, the weakest first.
func (s Sources) layers() ([]layer, error) {
	var out []layer
	add := func(source string, k *koanf.Koanf, fromEnv bool) error {
		l := layer{source: source, env: fromEnv}
		err := l.take(k.All())
		out = append(out, l)
		return err
	}
	if s.File != "" {
		if _, err := os.Stat(s.File); err != nil {
			return nil, fmt.Errorf("configuration file: %w", err)
		}
		k := koanf.New(".")
		if err := k.Load(file.Provider(s.File), yaml.Parser()); err != nil {
			return nil, fmt.Errorf("%s: %w", s.File, err)
		}
		if err := add(s.File, k, false); err != nil {
			return nil, err
		}
	}
	if len(s.Environ) > 0 {
		k := koanf.New(".")
		if err := s.loadEnv(k); err != nil {
			return nil, err
		}
		if err := add("environment", k, true); err != nil {
			return nil, err
		}
	}
	if s.Flags != nil {
		k := koanf.New(".")
		given := posflag.ProviderWithFlag(s.Flags, ".", k, func(f *pflag.Flag) (string, any) {
			if _, err := Find(f.Name); err != nil || !f.Changed {
				return "", nil
			}
			return f.Name, posflag.FlagVal(s.Flags, f)
		})
		if err := k.Load(given, nil); err != nil {
			return nil, fmt.Errorf("flags: %w", err)
		}
		if err := add("flags", k, false); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// loadEnv reads the WAGGLE_ variables. Those that the verbs of people read are
// no keys.
func (s Sources) loadEnv(k *koanf.Koanf) error {
	byEnv := map[string]string{"WAGGLE_SERVER": "", "WAGGLE_CA": "", "WAGGLE_PROFILE": ""}
	for _, key := range Keys() {
		byEnv[key.EnvName()] = key.Name
	}
	var strange string
	err := k.Load(env.Provider(".", env.Opt{
		Prefix:      "WAGGLE_",
		EnvironFunc: func() []string { return s.Environ },
		TransformFunc: func(name, value string) (string, any) {
			key, known := byEnv[name]
			if !known {
				strange = name
			}
			return key, value
		},
	}), nil)
	if err != nil {
		return fmt.Errorf("environment: %w", err)
	}
	if strange == "" {
		return nil
	}
	names := make([]string, 0, len(byEnv))
	for name := range byEnv {
		names = append(names, name)
	}
	slices.Sort(names)
	nearest := slices.MinFunc(names, func(a, b string) int { return distance(a, strange) - distance(b, strange) })
	return fmt.Errorf("environment: there is no key %s: the nearest is %s", strange, nearest)
}

// take checks names and types. Keys and sections left blank count as left out.
func (l *layer) take(values map[string]any) error {
	l.values = map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		v := values[name]
		if empty, ok := v.(map[string]any); v == nil || ok && len(empty) == 0 {
			if _, err := Find(name); err != nil && len(section(name)) == 0 {
				return fmt.Errorf("%s: %w", l.source, err)
			}
			continue
		}
		k, err := Find(name)
		if below := section(name); err != nil && len(below) > 0 {
			return fmt.Errorf("%s: %s: is a section, with the keys %s", l.source, name, strings.Join(below, ", "))
		}
		if err != nil {
			return fmt.Errorf("%s: %w", l.source, err)
		}
		if l.values[name], err = k.convert(v, l.env); err != nil {
			return fmt.Errorf("%s: %s: %w", l.source, l.called(k), err)
		}
	}
	return nil
}
