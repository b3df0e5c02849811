// Package archtest holds the shape of the tree as a test: imports point down,
// every package and exported name is explained, nothing is initialised behind
// one's back, and files, functions, interfaces and parameter lists stay small.
//
// It reads source files, whatever system they are for, and needs no build.
// Generated code and testdata folders are left out.
package archtest
