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
	caCertFile   = "ca.crt"
	caKeyFile    = "ca.key"
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
	path := f.path(name)
	text, err := disk.ReadFile(f.fs, path, maxPEM)
	if errors.Is(err, disk.ErrTooLarge) {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != kind || len(rest) != 0 {
		return nil, fmt.Errorf("%w: %s is not one PEM block of type %s", ErrDamaged, path, kind)
	}
	return block.Bytes, nil
}

// write replaces a file as a whole: after a crash it has the old content or the new.
func (f folder) write(name, kind string, der []byte) error {
	path := f.path(name)
	if err := disk.WriteFile(f.fs, path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
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
