// Package seal encrypts files block by block, so that a part of a file can be
// read alone and no stored bit can change unnoticed.
//
// # Format 1
//
// A file is cut into blocks of [BlockBytes]; only the last may be shorter, and
// an empty file has one empty block. Block n lies at n × (BlockBytes +
// [OverheadBytes]):
//
//	nonce(12) ‖ AES-256-GCM(block) ‖ tag(16)
//
// What is authenticated beside the block: the words "waggle seal 1", the
// block's number (big endian, 8 bytes) and one byte that is 1 in the last
// block and 0 in all others. So a block cannot stand at another place, the end
// cannot be cut off, and nothing can be added.
//
// Nonces are random and not counted: an upload that goes on after a crash
// seals the same block anew, possibly with other content, and a counted nonce
// would come twice under one key. A file of 16 GiB has 2^18 blocks, so the
// chance that two of 2^96 are equal is below 2^-60.
//
// # Keys
//
// Each file has its own random key. It is stored wrapped, as nonce(12) ‖
// AES-256-GCM(key) ‖ tag(16), by a key of the cell from a [Keyring], with the
// name of the blob authenticated beside it. A new key of the cell is put in
// front of the others in the file of keys: what is stored stays as it is, and
// the older keys stay for reading until every file that names them is wrapped
// anew, which changes its metadata and not its content.
package seal
