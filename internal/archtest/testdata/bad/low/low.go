// Package low imports what is above it.
package low

import _ "bad/high"
