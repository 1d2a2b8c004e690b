package pair

import (
	"context"
	"errors"
	"io"
	"os"
	"syscall"

	"github.com/virtswarm/virtswarm/internal/content"
)

// measureHashing compares content.ChunkFile with one sequential read of the same file, both from the page cache.
func measureHashing(ctx context.Context, path string, size int64, runs int) ([]row, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	rows := []row{
		{name: "read", note: "one thread, 1 MiB at a time"},
		{name: "cut and hash", note: "BLAKE3, all cores"},
	}
	buf := make([]byte, 1<<20)
	for range runs {
		s, err := timed(ownCPU, func() error {
			for off := int64(0); off < size; off += int64(len(buf)) {
				if _, err := f.ReadAt(buf, off); err != nil && !errors.Is(err, io.EOF) {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		rows[0].samples = append(rows[0].samples, s)
		s, err = timed(ownCPU, func() error {
			_, err := content.ChunkFile(ctx, f, size, content.ChunkOptions{ChunkSize: content.DefaultChunkSize})
			return err
		})
		if err != nil {
			return nil, err
		}
		rows[1].samples = append(rows[1].samples, s)
	}
	return rows, nil
}

// ownCPU is the user and system time of this process, in seconds.
func ownCPU() float64 {
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		panic(err) // cannot fail for a valid argument
	}
	return seconds(ru)
}

func seconds(ru syscall.Rusage) float64 {
	return float64(ru.Utime.Nano()+ru.Stime.Nano()) / 1e9
}
