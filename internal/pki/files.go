package pki

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/virtswarm/virtswarm/internal/disk"
)

// The files of an identity, all in PEM and mode 0600. The host certificate is written last: it makes the identity.
const (
	caCertFile   = "ca.crt"      // of the authority that signs, then of others that are trusted
	caKeyFile    = "ca.key"      // at hosts that sign
	nextKeyFile  = "ca.next.key" // of the authority that will sign
	pastFile     = "ca.past"     // certificates of authorities that are not trusted any more, by which old tokens are known
	hostCertFile = "host.crt"
	hostKeyFile  = "host.key"
)

const (
	pemCert = "CERTIFICATE"
	pemKey  = "PRIVATE KEY"
	// maxPEM bounds a file before it is read, in bytes; ours have about 1000.
	maxPEM = 64 << 10
)

// A folder is where an identity is kept.
type folder struct {
	fs  disk.FS
	dir string
}

// folderAt returns the folder at dir; a nil fs means disk.OS.
func folderAt(fs disk.FS, dir string) folder {
	if fs == nil {
		fs = disk.OS{}
	}
	return folder{fs, dir}
}

func (f folder) path(name string) string { return filepath.Join(f.dir, name) }

// read returns the only block of a file.
func (f folder) read(name, kind string) ([]byte, error) {
	blocks, err := f.readAll(name, kind)
	if err != nil {
		return nil, err
	}
	if len(blocks) != 1 {
		return nil, fmt.Errorf("%w: %s is not one PEM block of type %s", ErrDamaged, f.path(name), kind)
	}
	return blocks[0], nil
}

// readAll returns the blocks of a file, at least one.
func (f folder) readAll(name, kind string) (blocks [][]byte, err error) {
	path := f.path(name)
	text, err := disk.ReadFile(f.fs, path, maxPEM)
	if errors.Is(err, disk.ErrTooLarge) {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err != nil {
		return nil, err
	}
	for len(text) > 0 || blocks == nil {
		block, rest := pem.Decode(text)
		if block == nil || block.Type != kind {
			return nil, fmt.Errorf("%w: %s holds something else than PEM blocks of type %s", ErrDamaged, path, kind)
		}
		blocks, text = append(blocks, block.Bytes), rest
	}
	return blocks, nil
}

// write replaces a file as a whole: after a crash it has the old content or the new.
func (f folder) write(name, kind string, der []byte) error {
	return f.writeAll(name, kind, [][]byte{der})
}

// writeAll is write with several blocks.
func (f folder) writeAll(name, kind string, blocks [][]byte) error {
	path := f.path(name)
	var text []byte
	for _, der := range blocks {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})...)
	}
	if err := disk.WriteFile(f.fs, path, text, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func parseKey(der []byte) (ed25519.PrivateKey, error) {
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	key, ok := k.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("it is a %T, want Ed25519", k)
	}
	return key, nil
}

func marshalKey(key ed25519.PrivateKey) []byte {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic("pki: an Ed25519 key cannot be marshalled: " + err.Error()) // not for keys of this type
	}
	return der
}
