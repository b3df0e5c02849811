// Package picture reads pictures of strangers safely and makes small ones of
// them.
//
// Dimensions are read before any pixel, and a picture that would take more
// memory than [MemoryMax] is refused. What is made is encoded anew from pixels,
// so that nothing of the original's metadata stays; the orientation that it
// gives is applied.
package picture
