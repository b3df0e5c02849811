package config

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/waggle-im/waggle/internal/daemon"
)

// PrintDefault is a YAML file with every key of a role: its comment, and its
// default or, where there is none, an example. It loads and validates.
func PrintDefault(role string) (string, error) {
	if !slices.Contains([]string{daemon.RoleControlPlane, daemon.RoleCell, daemon.RoleEdge, daemon.RoleEtcd}, role) {
		return "", fmt.Errorf("role %q is not one of controlplane, cell, edge", role)
	}
	var out strings.Builder
	fmt.Fprintf(&out, "# Configuration of a Waggle node: %s.\n", role)
	out.WriteString("# A key that is left out has its default. Environment variables (`waggle config\n# explain KEY` names them) and flags come before this file.\n")
	below := ""
	for _, k := range Keys() {
		if !k.For(role) {
			continue
		}
		group, name, nested := strings.Cut(k.Name, ".")
		indent := ""
		if nested {
			indent = "  "
			if group != below {
				fmt.Fprintf(&out, "\n%s:\n", group)
			}
			below = group
		} else {
			name = k.Name
			out.WriteByte('\n')
		}
		value, isDefault := k.shown(role)
		for _, line := range wrap(k.Help, 76) {
			fmt.Fprintf(&out, "%s# %s\n", indent, line)
		}
		if !isDefault {
			fmt.Fprintf(&out, "%s# No default; an example:\n", indent)
		}
		raw, err := json.Marshal(value) // JSON is YAML
		if err != nil {
			return "", fmt.Errorf("config: default of %s: %w", k.Name, err)
		}
		fmt.Fprintf(&out, "%s%s: %s\n", indent, name, raw)
	}
	return out.String(), nil
}

// shown is the value print-default shows, and whether that is the default.
func (k Key) shown(role string) (value any, isDefault bool) {
	name := map[string]string{
		daemon.RoleControlPlane: "cp1", daemon.RoleCell: "c1-n1", daemon.RoleEdge: "e1", daemon.RoleEtcd: "etcd",
	}[role]
	dir := "/etc/waggle/"
	switch k.Name {
	case "role":
		return role, false
	case "node":
		return name, false
	case "data_dir":
		return "/var/lib/waggle/" + name, false
	case "tls.cert":
		return dir + name + ".pem", false
	case "tls.key":
		return dir + name + "-key.pem", false
	case "tls.ca":
		return dir + "ca.pem", false
	case "edge.cert":
		return dir + "web.pem", false
	case "edge.key":
		return dir + "web-key.pem", false
	}
	if k.Example != nil {
		return k.Example, false
	}
	return k.value(), true
}

// Explain is all there is to say of one key.
func Explain(name string) (string, error) {
	k, err := Find(name)
	if err != nil {
		if below := section(name); len(below) > 0 {
			return "", fmt.Errorf("%s is a section, with the keys %s", name, strings.Join(below, ", "))
		}
		return "", err
	}
	var out strings.Builder
	fmt.Fprintf(&out, "%s\n  %s\n", k.Name, k.Help)
	raw, err := json.Marshal(k.value())
	if err != nil {
		return "", fmt.Errorf("config: default of %s: %w", k.Name, err)
	}
	roles := "every role"
	if len(k.Roles) > 0 {
		roles = strings.Join(k.Roles, ", ")
	}
	flag := "--" + k.Name
	if k.Secret || k.Name == "role" {
		flag = "none"
	}
	fmt.Fprintf(&out, "  type:         %s\n  default:      %s\n  read by:      %s\n  environment:  %s\n  flag:         %s\n",
		k.Type(), raw, roles, k.EnvName(), flag)
	if k.PerNode != "" {
		fmt.Fprintf(&out, "  waggle dev:   %s\n", k.PerNode)
	}
	return out.String(), nil
}

// wrap breaks text into lines of at most width bytes, where words allow.
func wrap(text string, width int) []string {
	var lines []string
	for word := range strings.FieldsSeq(text) {
		if n := len(lines); n > 0 && len(lines[n-1])+1+len(word) <= width {
			lines[n-1] += " " + word
		} else {
			lines = append(lines, word)
		}
	}
	return lines
}
