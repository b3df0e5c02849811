// Package high may import low.
package high

import _ "bad/low"
