package content

import (
	"encoding/binary"

	"lukechampine.com/blake3/guts"
)

// subtree is the run of bytes that one call of guts.CompressBuffer hashes, with vectors of 16 words where the processor
// has them. It is a complete subtree of BLAKE3's tree.
const subtree = guts.MaxSIMD * guts.ChunkSize

// maxDepth bounds the tree above the subtrees: 2^48 of them are more than any slice holds.
const maxDepth = 48

// Sum returns the BLAKE3-256 digest of p. It allocates nothing and is safe for concurrent use.
//
// The tree is walked here, in one goroutine and without copying (The BLAKE3 paper, O'Connor et al. 2020, 2.1 and
// 5.1.2), over the library's vector code: its own Sum256 starts goroutines, which does not pay where every core has a
// chunk of its own, and costs a third of the speed.
func Sum(p []byte) (d Digest) {
	var (
		stack [maxDepth][8]uint32 // chaining values of complete trees, the largest first
		depth int
		done  uint64 // subtrees
	)
	for ; len(p) > subtree; p = p[subtree:] { // what is last is the root's, and hashed otherwise
		cv := guts.ChainingValue(guts.CompressBuffer((*[subtree]byte)(p), subtree, &guts.IV, done*guts.MaxSIMD, 0))
		done++
		for n := done; n&1 == 0; n >>= 1 { // two trees of a size make one of twice the size
			depth--
			cv = guts.ChainingValue(guts.ParentNode(stack[depth], cv, &guts.IV, 0))
		}
		stack[depth] = cv
		depth++
	}
	var root guts.Node
	if len(p) == subtree {
		root = guts.CompressBuffer((*[subtree]byte)(p), subtree, &guts.IV, done*guts.MaxSIMD, 0)
	} else {
		root = rest(p, done)
	}
	for depth > 0 {
		depth--
		root = guts.ParentNode(stack[depth], guts.ChainingValue(root), &guts.IV, 0)
	}
	root.Flags |= guts.FlagRoot
	words := guts.CompressNode(root)
	for i := range len(d) / 4 {
		binary.LittleEndian.PutUint32(d[4*i:], words[i])
	}
	return d
}

// rest hashes what is less than a subtree. It stands apart, and is not inlined, because of its large frame: a goroutine
// that hashes one whole chunk need not grow its stack.
//
//go:noinline
func rest(p []byte, done uint64) guts.Node {
	var padded [subtree]byte
	n := copy(padded[:], p)
	return guts.CompressBuffer(&padded, n, &guts.IV, done*guts.MaxSIMD, 0)
}
