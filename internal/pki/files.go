package pki

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
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

// readPEM returns the only block of a file.
func readPEM(path, kind string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxPEM {
		return nil, fmt.Errorf("%w: %s has %d bytes", ErrDamaged, path, info.Size())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != kind || len(rest) != 0 {
		return nil, fmt.Errorf("%w: %s is not one PEM block of type %s", ErrDamaged, path, kind)
	}
	return block.Bytes, nil
}

// writePEM replaces a file as a whole: after a crash it has the old content or the new.
func writePEM(dir, name, kind string, der []byte) error {
	path := filepath.Join(dir, name)
	if err := replace(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return syncDir(dir)
}

func replace(path string, data []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		os.Remove(tmp) // best effort: the next attempt truncates it anyway
	}
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, err)
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
