//go:build linux

// Knocker is a hostile guest's program: it knocks at a port of every address that it is told, by frames of its
// own making, past the guest's kernel. The tests of virtual machines run it and see what arrived.
package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "knocker:", err)
		os.Exit(1)
	}
}

// run takes a word that is to arrive, a port, and addresses.
func run(args []string) error {
	if len(args) < 3 {
		return errors.New("usage: knocker WORD PORT ADDRESSES")
	}
	port, err := strconv.ParseUint(args[1], 10, 16)
	if err != nil {
		return err
	}
	card, err := openCard("eth0")
	if err != nil {
		return err
	}
	defer unix.Close(card.socket)
	knocks := 0
	for _, arg := range args[2:] {
		to, err := netip.ParseAddr(arg)
		if err != nil {
			return err
		}
		for _, frame := range framesTo(netip.AddrPortFrom(to, uint16(port)), args[0]) {
			if err := card.send(frame); err != nil {
				return fmt.Errorf("a frame of %d bytes to %s: %w", len(frame), to, err)
			}
			if knocks++; knocks%batch == 0 { // and so no queue of the host's is ever full
				if err := card.await(); err != nil {
					return err
				}
			}
		}
	}
	fmt.Println("knocked", knocks, "times")
	return card.await()
}

// batch is how many frames are sent before the host is asked for a sign that it has got them.
const batch = 16

// card is a network card, whose frames are made by hand.
type card struct {
	socket int
	link   *unix.SockaddrLinklayer
}

func openCard(name string) (*card, error) {
	device, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	const everything = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in the network's order
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, everything)
	if err != nil {
		return nil, err
	}
	c := &card{socket: socket, link: &unix.SockaddrLinklayer{Ifindex: device.Index, Protocol: everything}}
	err = errors.Join(unix.Bind(socket, c.link), unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}))
	return c, err
}

func (c *card) send(frame []byte) error { return unix.Sendto(c.socket, frame, 0, c.link) }

// await asks for the gateway's card, and returns when it is told: what was sent before has been looked at by then.
func (c *card) await() error {
	frame := make([]byte, 1<<16)
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		if err := c.send(question()); err != nil {
			return err
		}
		for {
			n, err := unix.Read(c.socket, frame)
			if err != nil { // none came for a second
				break
			}
			if isAnswer(frame[:n]) {
				return nil
			}
		}
	}
	return errors.New("the gateway is silent")
}
