// Package manager has a name that says nothing.
package manager
