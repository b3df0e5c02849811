// Package docs has two doc comments.
package docs
