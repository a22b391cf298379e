package listenmachine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ErrInvalidAddress is an address that can't be listened at.
var ErrInvalidAddress = errors.New("invalid address to listen at")

const (
	rightAddress  = "it must be HOST:PORT, :PORT, [IPV6]:PORT or unix:/PATH"
	maxSocketPath = 107 // sun_path of Linux less its NUL
	dialPatience  = time.Second
)

// place is where to listen.
type place struct {
	network string
	address string
	hops    int // 0 is as many as the system says
}

func parse(address string) (place, error) {
	bad := func(why string) (place, error) {
		return place{}, fmt.Errorf("%w %q: %s; %s", ErrInvalidAddress, address, why, rightAddress)
	}
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		if rest, slashes := strings.CutPrefix(path, "//"); slashes {
			path = rest
		}
		switch {
		case !filepath.IsAbs(path): // nor in Linux's own space of names, which has no permissions
			return bad("the path of the socket is not absolute")
		case len(path) > maxSocketPath:
			return bad(fmt.Sprintf("the path of the socket has %d bytes, the most is %d", len(path), maxSocketPath))
		}
		return place{network: "unix", address: path}, nil
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return bad("its host and port can't be told apart")
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return bad(fmt.Sprintf("the port %q is not a number from 0 to 65535", port))
	}
	return place{network: "tcp", address: address}, nil
}

// bound is the address that was listened at, in the words of New.
func (p place) bound(addr net.Addr) string {
	if p.network == "unix" {
		return "unix:" + p.address
	}
	return addr.String()
}

func (p place) listen(ctx context.Context) (net.Listener, error) {
	if p.network != "unix" {
		config := net.ListenConfig{Control: p.boundHops}
		listener, err := config.Listen(ctx, p.network, p.address)
		if err != nil {
			return nil, fmt.Errorf("%q can't be listened at: %w; use an address of this machine and a port that is free (0 finds one)", p.address, err)
		}
		return listener, nil
	}
	listener, err := p.listenUnix(ctx)
	if errors.Is(err, syscall.EADDRINUSE) {
		if err := p.removeStale(ctx); err != nil {
			return nil, err
		}
		listener, err = p.listenUnix(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("the socket %q can't be made: %w; its folder must be there and be writable", p.address, err)
	}
	return listener, nil
}

// listenUnix makes a socket that its owner alone may connect to.
func (p place) listenUnix(ctx context.Context) (net.Listener, error) {
	config := net.ListenConfig{Control: privately}
	listener, err := config.Listen(ctx, p.network, p.address)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(p.address, 0o600); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// removeStale removes the socket of a host that is gone: nobody answers there any more.
func (p place) removeStale(ctx context.Context) error {
	info, err := os.Lstat(p.address)
	switch {
	case errors.Is(err, fs.ErrNotExist): // it went just now
		return nil
	case err != nil:
		return fmt.Errorf("what is at %q can't be looked at: %w", p.address, err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%q is there already and is no socket: remove it, or use another path", p.address)
	}
	ctx, cancel := context.WithTimeout(ctx, dialPatience)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, p.network, p.address)
	if err == nil {
		conn.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("the socket %q is in use: end whoever listens there, or use another path", p.address)
	}
	if err := os.Remove(p.address); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the socket %q was left behind by somebody, and can't be removed: %w", p.address, err)
	}
	return nil
}
