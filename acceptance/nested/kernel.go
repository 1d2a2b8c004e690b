package nested

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// kernelPackage is Debian's kernel for virtual machines; it depends on the one of the newest version.
const kernelPackage = "linux-image-cloud-amd64"

// A Kernel is a kernel with its modules.
type Kernel struct {
	Image   string // to boot
	modules string // lib/modules/VERSION
}

// FindKernel returns Debian's kernel for virtual machines. It is downloaded (25 MiB) by apt-get, not installed, unless
// it is in the directory from an earlier time. It may be called by several processes at once.
func FindKernel(ctx context.Context, cache string) (*Kernel, error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, fmt.Errorf("find kernel: %w", err)
	}
	if k, err := unpackedKernel(cache); err == nil {
		return k, nil
	}
	work, err := os.MkdirTemp(cache, ".download")
	if err != nil {
		return nil, fmt.Errorf("find kernel: %w", err)
	}
	defer os.RemoveAll(work)
	out, err := command(ctx, work, "apt-cache", "depends", kernelPackage)
	_, name, found := strings.Cut(out, "Depends: ")
	if err != nil || !found {
		return nil, fmt.Errorf("find kernel: apt knows no %s (apt-get update?): %s, %w", kernelPackage, out, err)
	}
	name, _, _ = strings.Cut(name, "\n")
	if _, err := command(ctx, work, "apt-get", "download", "-qq", name); err != nil {
		return nil, fmt.Errorf("find kernel: %w", err)
	}
	packages, _ := filepath.Glob(filepath.Join(work, "*.deb"))
	if len(packages) != 1 {
		return nil, fmt.Errorf("find kernel: apt-get has downloaded %q", packages)
	}
	root := filepath.Join(work, name)
	if _, err := command(ctx, work, "dpkg", "-x", packages[0], root); err != nil {
		return nil, fmt.Errorf("find kernel: %w", err)
	}
	k, err := kernelIn(root)
	if err != nil {
		return nil, err
	}
	if _, err := command(ctx, work, "depmod", "-b", root, filepath.Base(k.modules)); err != nil {
		return nil, fmt.Errorf("find kernel: %w", err)
	}
	if err := os.Rename(root, filepath.Join(cache, name)); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("find kernel: %w", err) // else somebody was faster, with the same
	}
	return unpackedKernel(cache)
}

// unpackedKernel finds the newest one in the cache.
func unpackedKernel(cache string) (*Kernel, error) {
	roots, _ := filepath.Glob(filepath.Join(cache, "linux-image-*"))
	if len(roots) == 0 {
		return nil, fmt.Errorf("find kernel: none in %s", cache)
	}
	return kernelIn(slices.Max(roots))
}

func kernelIn(root string) (*Kernel, error) {
	images, _ := filepath.Glob(filepath.Join(root, "boot/vmlinuz-*"))
	modules, _ := filepath.Glob(filepath.Join(root, "lib/modules/*"))
	if len(images) != 1 || len(modules) != 1 {
		return nil, fmt.Errorf("find kernel: %s holds the kernels %q and modules %q, want one of each", root, images, modules)
	}
	return &Kernel{Image: images[0], modules: modules[0]}, nil
}

// load adds modules to an archive, with those that they need, and a list of them in the order in which to insert them.
func (k *Kernel) load(a *archive, names []string) error {
	index, err := os.ReadFile(filepath.Join(k.modules, "modules.dep"))
	if err != nil {
		return fmt.Errorf("find modules: %w", err)
	}
	needs := map[string][]string{} // of each module's file, nearest first
	files := map[string]string{}
	for line := range strings.Lines(string(index)) {
		file, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		needs[file] = strings.Fields(rest)
		files[strings.ReplaceAll(strings.TrimSuffix(filepath.Base(file), ".ko"), "-", "_")] = file
	}
	var order []string
	for _, name := range names {
		file, ok := files[strings.ReplaceAll(name, "-", "_")]
		if !ok {
			return fmt.Errorf("find modules: the kernel %s has no %s", filepath.Base(k.modules), name)
		}
		for _, f := range slices.Backward(append([]string{file}, needs[file]...)) {
			if !slices.Contains(order, f) {
				order = append(order, f)
			}
		}
	}
	var list strings.Builder
	for _, f := range order {
		a.file("/modules/"+filepath.Base(f), filepath.Join(k.modules, f))
		list.WriteString("/modules/" + filepath.Base(f) + "\n")
	}
	a.text("/modules/order", list.String())
	return nil
}

// command runs a program and returns its output; an error has what it said.
func command(ctx context.Context, dir, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%s: %w: %s", program, err, exit.Stderr)
	}
	return string(out), err
}
