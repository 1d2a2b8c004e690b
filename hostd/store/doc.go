// Package store keeps verified chunks on this host's disk: one sparse file, one bitmap and one manifest for each
// content, so that the very same bytes serve swarm, reflinks, sendfile and a hypervisor.
//
// What it promises:
//
//   - No unverified byte leaves it. A chunk is hashed before it is written, and again on every read; a chunk that
//     does not match any more is unmarked, on disk too, before the reader hears of it.
//   - What Durable says survives a loss of power; what Has says survives a kill -9. The bitmap on disk names a
//     chunk only after fdatasync of its data, and at Open data that the bitmap does not name yet is hashed and
//     marked if it is right.
//   - One flipped byte in a data file, a bitmap or a manifest costs at most the fetching of what it hit.
//   - A full disk, an error or a kill at any point leaves nothing half-done: a file appears in files/ by one
//     rename, complete with its manifest; what is in incoming/ at Open is swept away.
//   - What is dropped to make room is unmarked on disk before its place is punched free; and what is written fits in
//     the quota and leaves the file system its reserve, or fails before it is written.
//
// Under Dir stand LOCK, VERSION, incoming/ (being made), damaged/ (set aside for a person to look at) and files/<hex
// id>/{manifest,bitmap,data,note}; docs/formats.md has them byte by byte. cluster, beside VERSION, says whose catalogue
// the store belongs to, and a note which names a content had: hints, which may be lost at no cost of data.
//
// Memory: the manifests, 32 bytes a data chunk, and three bits a chunk: 130 MiB for 1 TiB in chunks of 256 KiB.
// There is no resident index for deduplication: Create looks through the manifests in memory once for what the
// new file wants, 17 ns a chunk: 70 ms for that TiB. At most maxOpenFiles data files are open besides those in use.
package store
