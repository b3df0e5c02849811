// Package bytesize writes numbers of bytes for people.
package bytesize

import "fmt"

// Words is a number of bytes in binary units, as in "3.0 MiB".
func Words(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, units := float64(n)/unit, "KMGTPE"
	for value >= unit && len(units) > 1 {
		value, units = value/unit, units[1:]
	}
	return fmt.Sprintf("%.1f %ciB", value, units[0])
}
