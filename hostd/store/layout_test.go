package store

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// BenchmarkLayout compares the two ways to lay out a content on disk: one sparse file, or a file a chunk, written under
// a hidden name and renamed. docs/decisions/one-file.md says what follows from it. No hashing, no sync.
func BenchmarkLayout(b *testing.B) {
	const chunk, chunks = 256 << 10, 256
	data := make([]byte, chunk)
	for i := range data {
		data[i] = byte(i)
	}
	write := map[string]func(dir string) error{
		"OneFile": func(dir string) error {
			f, err := os.Create(filepath.Join(dir, "data"))
			if err != nil {
				return err
			}
			defer f.Close()
			for i := range chunks {
				if _, err := f.WriteAt(data, int64(i)*chunk); err != nil {
					return err
				}
			}
			return nil
		},
		"FileAChunk": func(dir string) error {
			for i := range chunks {
				hidden := filepath.Join(dir, fmt.Sprintf(".%064x", i))
				if err := os.WriteFile(hidden, data, 0o600); err != nil {
					return err
				}
				if err := os.Rename(hidden, filepath.Join(dir, fmt.Sprintf("%064x", i))); err != nil {
					return err
				}
			}
			return nil
		},
	}
	for _, layout := range []string{"OneFile", "FileAChunk"} {
		b.Run(layout, func(b *testing.B) {
			b.SetBytes(chunk * chunks)
			for b.Loop() {
				dir := b.TempDir()
				if err := write[layout](dir); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := os.RemoveAll(dir); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}
