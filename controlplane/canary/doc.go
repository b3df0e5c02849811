// Package canary moves a range to another cell and back now and then, so that
// moving is never first tried in an emergency. The range holds nobody but two
// users made for it; one writes to the other all the time, and afterwards
// everything that was acknowledged is read again.
package canary
