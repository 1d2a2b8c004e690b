package disk

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestAbsMeansWhatTheKernelMeans: from a directory that was entered through a link, and through a link in the path.
func TestAbsMeansWhatTheKernelMeans(t *testing.T) {
	top := t.TempDir()
	for _, dir := range []string{"real/deep", "other"} {
		if err := os.MkdirAll(filepath.Join(top, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"f", "real/f", "real/deep/f"} {
		if err := os.WriteFile(filepath.Join(top, file), []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../real/deep", filepath.Join(top, "other/link")); err != nil {
		t.Fatal(err)
	}
	for _, wd := range []string{"", "other", "other/link", "real"} {
		// As a shell does it: PWD names the way that was taken.
		t.Chdir(filepath.Join(top, wd))
		t.Setenv("PWD", filepath.Join(top, wd))
		for _, path := range []string{
			"f", "./f", "../f", "link/../f", "other/link/../f", ".//..//./f", "link/f", "other/link/../../f", "f/", "f/.", ".", "../",
			filepath.Join(top, "other") + "/link/../f", "//" + top + "/./f",
		} {
			abs, err := Abs(path)
			if err != nil || !filepath.IsAbs(abs) {
				t.Fatalf("%s from %s: %s, %v", path, wd, abs, err)
			}
			want, wantErr := os.Stat(path)
			got, gotErr := os.Stat(abs)
			switch {
			case (wantErr == nil) != (gotErr == nil):
				t.Errorf("%s from %q is %s: the kernel says %v of one and %v of the other", path, wd, abs, wantErr, gotErr)
			case wantErr == nil && !os.SameFile(want, got):
				t.Errorf("%s from %q is %s, which is another file", path, wd, abs)
			case wantErr == nil:
				plain, err := Plain(abs)
				if got, statErr := os.Stat(plain); err != nil || statErr != nil || !os.SameFile(want, got) || strings.Contains(plain, "..") {
					t.Errorf("%s is plainly %s (%v, %v)", abs, plain, err, statErr)
				}
			}
		}
	}
	if _, err := Abs(""); !os.IsNotExist(err) {
		t.Errorf("an empty path: %v", err)
	}
}

func TestPartsOfPaths(t *testing.T) {
	for _, tt := range []struct{ path, dir, base string }{
		{"/a/link/../c", "/a/link/..", "c"}, {"/c", "/", "c"}, {"//c", "/", "c"}, {"c", ".", "c"}, {"/a/b/", "/a/b", ""}, {"/", "/", ""},
	} {
		if dir, base := Dir(tt.path), Base(tt.path); dir != tt.dir || base != tt.base {
			t.Errorf("%s is %q in %q, want %q in %q", tt.path, base, dir, tt.base, tt.dir)
		}
	}
	if a, b := Join("/", "x"), Join("/a/..", "x"); a != "/x" || b != "/a/../x" {
		t.Errorf("joined %q and %q", a, b)
	}
}
