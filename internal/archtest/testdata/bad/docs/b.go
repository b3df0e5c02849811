// Package docs has a second one.
package docs
