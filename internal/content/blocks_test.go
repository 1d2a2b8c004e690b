package content

import (
	"os"
	"syscall"
	"testing"
)

// blocks returns how many bytes the file takes on its disk.
func blocks(t testing.TB, f *os.File) int64 {
	t.Helper()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return st.Sys().(*syscall.Stat_t).Blocks * 512
}
