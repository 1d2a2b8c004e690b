package simtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/virtswarm/virtswarm/internal/content"
)

// Pool is what clients publish: small files of a few small chunks, some with holes, some sharing chunks. It is made
// once, outside of any bubble, and shared by all runs.
type Pool struct {
	paths  [][]string                        // by client
	ids    map[string]content.Digest         // by path
	known  map[content.Digest]content.Digest // of the bytes, to the id that the cluster gives them
	guests map[content.Digest]string         // by id: which guests may read it
	dir    string                            // of this run of the tests, for what must be a real file
}

const (
	// filesPerClient bounds what a client publishes: each file once, so that a version tells who published it, and when.
	filesPerClient = 10
	maxChunks      = 3
	maxSize        = (maxChunks + 1) * content.MinChunkSize // bytes of a file
)

// NewPool writes the files to a directory.
func NewPool(dir string) (*Pool, error) {
	p := &Pool{ids: map[string]content.Digest{}, known: map[content.Digest]content.Digest{}, guests: map[content.Digest]string{}, dir: dir}
	rng := rand.New(rand.NewPCG(1, 1))
	shared := chunk(rng)
	for c := range clientCount {
		var paths []string
		for i := range filesPerClient {
			var data []byte
			for n := range 1 + rng.IntN(maxChunks) {
				switch rng.IntN(6) {
				case 0:
					data = append(data, make([]byte, content.MinChunkSize)...)
				case 1:
					data = append(data, shared...)
				default:
					data = append(data, chunk(rng)[:content.MinChunkSize-n*i]...) // not all whole chunks
				}
			}
			data = append(data, byte(c), byte(i)) // no two are equal
			path := filepath.Join(dir, fmt.Sprintf("c%d-%d", c, i))
			if err := os.WriteFile(path, data, 0o600); err != nil {
				return nil, err
			}
			id, err := idOf(path, int64(len(data)))
			if err != nil {
				return nil, err
			}
			paths = append(paths, path)
			p.ids[path], p.known[content.Sum(data)], p.guests[id] = id, id, policies[i%len(policies)]
		}
		p.paths = append(p.paths, paths)
	}
	return p, nil
}

// idOf returns the id that a file gets when it is published.
func idOf(path string, size int64) (content.Digest, error) {
	f, err := os.Open(path)
	if err != nil {
		return content.Digest{}, err
	}
	defer f.Close()
	m, err := content.ChunkFile(context.Background(), f, size, content.ChunkOptions{ChunkSize: content.MinChunkSize})
	if err != nil {
		return content.Digest{}, err
	}
	return m.ID(), nil
}

// id returns the id of a version with these bytes, false if no file of the pool has them.
func (p *Pool) id(b []byte) (content.Digest, bool) {
	id, ok := p.known[content.Sum(b)]
	return id, ok
}

func chunk(rng *rand.Rand) []byte {
	p := make([]byte, content.MinChunkSize)
	for i := 0; i < len(p); i += 8 {
		v := rng.Uint64()
		for j := range 8 {
			p[i+j] = byte(v >> (8 * j))
		}
	}
	return p
}
