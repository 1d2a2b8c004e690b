package pair

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"time"
)

// roles are what this program does as a child of itself: the two ends of the raw TLS copy.
var roles = map[string]func(args []string) error{
	"tls-serve": serveTLS,
	"tls-fetch": fetchTLS,
}

// copyBuffer is what the raw copy reads and writes at a time; larger gains nothing.
const copyBuffer = 256 << 10

// serveTLS sends one file to the first that connects: args are FILE. It prints its address.
func serveTLS(args []string) error {
	f, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer f.Close()
	cert, err := certificate()
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	conn, err := l.Accept()
	if err != nil {
		return err
	}
	t := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13})
	if _, err := io.CopyBuffer(struct{ io.Writer }{t}, struct{ io.Reader }{f}, make([]byte, copyBuffer)); err != nil {
		return err
	}
	return t.Close()
}

// fetchTLS copies what a server sends to a file: args are ADDRESS DEST.
func fetchTLS(args []string) error {
	t, err := tls.Dial("tcp", args[0], &tls.Config{InsecureSkipVerify: true}) // a throw-away certificate on loopback
	if err != nil {
		return err
	}
	defer t.Close()
	f, err := os.OpenFile(args[1], os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{t}, make([]byte, copyBuffer)); err != nil {
		return err
	}
	return f.Close()
}

// certificate makes a throw-away certificate of the kind that virtswarm's hosts have.
func certificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// writeCertificate writes a throw-away certificate and its key as PEM.
func writeCertificate(certPath, keyPath string) error {
	cert, err := certificate()
	if err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return err
	}
	if err := writePEM(certPath, "CERTIFICATE", cert.Certificate[0]); err != nil {
		return err
	}
	return writePEM(keyPath, "PRIVATE KEY", key)
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
