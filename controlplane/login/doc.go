// Package login turns a name and a password into a session: it checks the
// password, has the user's range count up the device's session number, and
// signs the token that says so. It serves controlpb.Accounts, which edges call
// on behalf of people.
//
// Logging in needs SQL and the user's range, not etcd.
//
// Repeating a login with the same nonce gives the same session again. The
// refresh token of a session is therefore not stored anywhere: it is an HMAC
// of user, device and nonce under a secret of this control plane, and only its
// hash goes to the range. Another control plane has another secret; a login
// repeated there is a new session.
package login
