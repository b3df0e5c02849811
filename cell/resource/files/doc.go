// Package files serves the files of people on a resource node: uploads by tus
// 1.0, downloads with ranges, lists, removal, signed links. DESIGN.md says how
// it fits together.
//
// # Addresses
//
// The edge checks the token ("Authorization: Bearer TOKEN") and passes the
// request on; answers that are no success are application/problem+json, those
// of tusd text/plain.
//
//	POST   /uploads              tus: creation, creation-with-upload, concatenation, creation-defer-length
//	HEAD   /uploads/ID~NODE      tus: how far it is
//	PATCH  /uploads/ID~NODE      tus: more of it; Upload-Checksum: sha1, sha256 or blake3
//	DELETE /uploads/ID~NODE      tus: end it
//	GET    /files?before=N&limit=N        the caller's files, newest first, and his quota (JSON)
//	GET    /files/ID                      the content: ranges, ETag, conditions
//	GET    /files/ID/info                 what it is, and to its owner where it was sent (JSON)
//	POST   /files/ID/link                 a link that works for ten minutes without a token (JSON)
//	DELETE /files/ID                      its owner removes it
//	POST   /avatars?crop=X,Y,W,H          a picture that becomes the caller's avatar (JSON)
//	DELETE /avatars                       the caller has none any more (JSON)
//	GET    /avatars/ID?size=96            48, 96, 256 or 512 pixels square, to whoever is logged in
//
// ID is OWNER-NUMBER, as in 4096-17, and becomes a file when the last byte of
// its upload is stored and verified. Upload-Metadata may have filename (or
// name) and blake3 (64 hexadecimal digits of the content's hash, checked at
// the end). Who is not the owner names the message that carries the file:
// ?thread=THREAD&seq=SEQ.
package files
