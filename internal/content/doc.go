// Package content is the vocabulary that every room shares: what a file is once its name is taken away.
//
// A content is a sequence of bytes cut into chunks of one fixed size, each known by its BLAKE3-256 [Digest]. A
// [Manifest] lists them in one deterministic encoding, so that equal bytes cut alike have equal manifests and
// the digest of the manifest can stand for the whole. [Bits] says which chunks (or shards) somebody holds, and
// [ChunkFile] makes a manifest of a file, in parallel and without reading its holes.
//
// What the package promises: every decoder accepts exactly what the encoder writes (one encoding for a value,
// none other is taken), allocates no more than a small multiple of the bytes it was handed, and never panics on
// bytes from outside. The formats are laid out byte by byte in docs/formats.md.
package content
