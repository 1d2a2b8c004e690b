package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/virtswarm/virtswarm/internal/shmring"
)

const (
	piece    = 256 << 10 // bytes of a Write
	echoSize = 64        // bytes of a round trip
	// warmUp is how many round trips are made before those that count.
	warmUp = 100
)

// stream is what ends of a channel can do, all kinds of them.
type stream interface {
	net.Conn
	CloseWrite() error
}

// A caller says what it wants in the first 9 bytes: what, and for how long, in nanoseconds.
const (
	wantSend    = 's' // I send until I close; tell me how much it was, in 8 bytes
	wantReceive = 'r' // send so long
	wantEcho    = 'e' // send back what I send
)

func serve(network, address string, spin time.Duration) error {
	var l net.Listener
	var err error
	if network == "shm" {
		l, err = shmring.Listen(address, shmring.Options{Spin: spin})
	} else {
		l, err = net.Listen(network, address)
	}
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		if err := answer(c.(stream)); err != nil {
			return err
		}
	}
}

func answer(c stream) error {
	defer c.Close()
	var want [9]byte
	if _, err := io.ReadFull(c, want[:]); err != nil {
		return err
	}
	switch want[0] {
	case wantSend:
		total, err := drain(c)
		if err == nil {
			_, err = c.Write(binary.LittleEndian.AppendUint64(nil, uint64(total)))
		}
		return err
	case wantReceive:
		if _, err := pour(c, time.Duration(binary.LittleEndian.Uint64(want[1:]))); err != nil {
			return err
		}
		_, err := c.Read(want[:]) // until the other side has all
		return end(err)
	case wantEcho:
		buf := make([]byte, echoSize)
		for {
			if _, err := io.ReadFull(c, buf); err != nil {
				return end(err)
			}
			if _, err := c.Write(buf); err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("a caller wants %q", want)
}

func end(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// drain reads to the end.
func drain(c stream) (total int64, err error) {
	buf := make([]byte, piece)
	for {
		n, err := c.Read(buf)
		total += int64(n)
		if err != nil {
			return total, end(err)
		}
	}
}

// pour writes for a while, and closes its direction.
func pour(c stream, limit time.Duration) (total int64, err error) {
	buf := make([]byte, piece)
	for start := time.Now(); time.Since(start) < limit; {
		n, err := c.Write(buf)
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
	return total, c.CloseWrite()
}

func run(op, network, address, limit string, spin time.Duration) (found Found, err error) {
	var conn net.Conn
	if network == "shm" {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		conn, err = shmring.Dial(ctx, address, shmring.Options{Spin: spin})
	} else {
		conn, err = net.Dial(network, address)
	}
	if err != nil {
		return found, err
	}
	c := conn.(stream)
	defer c.Close()
	switch op {
	case "send", "receive":
		long, err := time.ParseDuration(limit)
		if err != nil {
			return found, err
		}
		return bulk(c, op == "send", long)
	case "echo":
		count, err := strconv.Atoi(limit)
		if err != nil {
			return found, err
		}
		return echo(c, count)
	}
	return found, fmt.Errorf("no operation %q", op)
}

func say(c stream, want byte, n uint64) error {
	_, err := c.Write(binary.LittleEndian.AppendUint64([]byte{want}, n))
	return err
}

// bulk moves bytes one way. All that was sent was read when the clock stops.
func bulk(c stream, send bool, long time.Duration) (found Found, err error) {
	want := byte(wantReceive)
	if send {
		want = wantSend
	}
	if err := say(c, want, uint64(long)); err != nil {
		return found, err
	}
	start := time.Now()
	if !send {
		found.Bytes, err = drain(c)
		found.Seconds = time.Since(start).Seconds()
		return found, err
	}
	if found.Bytes, err = pour(c, long); err != nil {
		return found, err
	}
	told, err := io.ReadAll(c)
	found.Seconds = time.Since(start).Seconds()
	if err == nil && (len(told) != 8 || binary.LittleEndian.Uint64(told) != uint64(found.Bytes)) {
		err = fmt.Errorf("the other side has read %x of %d bytes", told, found.Bytes)
	}
	return found, err
}

func echo(c stream, count int) (found Found, err error) {
	if err := say(c, wantEcho, 0); err != nil {
		return found, err
	}
	buf := make([]byte, echoSize)
	times := make([]float64, 0, count)
	for i := range warmUp + count {
		start := time.Now()
		if _, err := c.Write(buf); err != nil {
			return found, err
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			return found, err
		}
		if i >= warmUp {
			times = append(times, time.Since(start).Seconds())
		}
	}
	slices.Sort(times)
	found.Median, found.P99 = times[len(times)/2], times[len(times)*99/100]
	return found, nil
}
