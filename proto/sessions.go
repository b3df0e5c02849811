package proto

// DisplacedReason is what a device is told whose login was ended by another
// one of the same account.
const DisplacedReason = "same account logged in from a different location"

// SessionOver is what a device is told that has ended for a reason of the
// registry: [CodeDisplaced], or [CodeSessionEnded] for any other.
func SessionOver(why Code) *Error {
	switch why {
	case CodeDisplaced:
		return Errorf(CodeDisplaced, "%s", DisplacedReason)
	case CodeSessionEnded:
		return Errorf(CodeSessionEnded, "this login was ended: log in again")
	}
	return Errorf(CodeSessionEnded, "this device was logged out: log in again")
}
