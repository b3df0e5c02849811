// Package config reads the configuration of a node: flags over WAGGLE_*
// environment over a YAML file over defaults. Every key stands in one table
// (keys.go) with its comment, default and roles; a key that is not there is
// refused with the nearest one that is.
package config
