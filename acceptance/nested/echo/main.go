// Command echo is both ends of a link, to try one in a guest:
//
//	echo listen URL    accepts one connection, prints "peer CID" and sends back what it reads
//	echo dial URL      connects, sends 1 MiB, reads them back, prints "echoed BYTES"
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"github.com/virtswarm/virtswarm/internal/link"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: echo listen|dial URL")
		os.Exit(2)
	}
	do := dial
	if os.Args[1] == "listen" {
		do = listen
	}
	if err := do(os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "echo:", err)
		os.Exit(1)
	}
}

func listen(url string) error {
	l, err := link.OS.Listen(context.Background(), url)
	if err != nil {
		return err
	}
	fmt.Println("listens at", url)
	c, err := l.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	cid, ok := link.PeerCID(c)
	fmt.Println("peer", cid, ok)
	_, err = io.Copy(c, c)
	return err
}

func dial(url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := link.OS.Dial(ctx, url)
	if err != nil {
		return err
	}
	defer c.Close()
	sent := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{}).Read(sent)
	begin := time.Now()
	wrote := make(chan error, 1)
	go func() {
		_, err := c.Write(sent)
		if half, ok := c.(interface{ CloseWrite() error }); ok && err == nil {
			err = half.CloseWrite()
		}
		wrote <- err
	}()
	got, err := io.ReadAll(c)
	if err != nil {
		return err
	}
	if err := <-wrote; err != nil {
		return err
	}
	if !bytes.Equal(got, sent) {
		return fmt.Errorf("%d bytes have come back changed", len(got))
	}
	fmt.Println("echoed", len(got), "bytes in", time.Since(begin).Round(time.Millisecond))
	return nil
}
