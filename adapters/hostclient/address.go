package hostclient

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/hexworker/metaservice/adapters/wire"
)

// ErrInvalidAddress is a host's address that can't be dialed.
var ErrInvalidAddress = errors.New("invalid address of the host")

// rightAddress ends every error about an address: what would be right.
const rightAddress = "it must be ADDRESS, HOST:PORT, [IPV6]:PORT, http://HOST:PORT or unix:/PATH"

const defaultPort = "80"

// target is where to dial, and what the Host header says.
type target struct {
	network string
	address string
	host    string
}

// parseAddress takes an address as an operator writes it. Empty is wire.DefaultHost.
func parseAddress(address string) (target, error) {
	if address == "" {
		address = wire.DefaultHost
	}
	bad := func(why string) (target, error) {
		return target{}, fmt.Errorf("%w %q: %s; %s", ErrInvalidAddress, address, why, rightAddress)
	}
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		path = strings.TrimPrefix(path, "//")
		switch {
		case !filepath.IsAbs(path):
			return bad("the path of the socket is not absolute")
		case len(path) > maxSocketPath:
			return bad(fmt.Sprintf("the path of the socket has %d bytes, the most is %d", len(path), maxSocketPath))
		}
		// A socket has no name of its own, and the host may look at the header: so the one that all
		// guests use.
		return target{network: "unix", address: path, host: wire.DefaultHost}, nil
	}
	rest, _ := strings.CutPrefix(address, "http://")
	rest = strings.TrimSuffix(rest, "/")
	switch {
	case strings.Contains(rest, "://"):
		return bad("the only scheme is http, the metadata address has no certificate")
	case strings.ContainsAny(rest, "/?#@ \t\r\n\x00"):
		return bad("there is more to it than a host and a port")
	}
	host, port, err := splitPort(rest)
	if err != nil {
		return bad(err.Error())
	}
	header := net.JoinHostPort(host, port)
	if port == defaultPort {
		header = strings.TrimSuffix(header, ":"+port)
	}
	return target{network: "tcp", address: net.JoinHostPort(host, port), host: header}, nil
}

// maxSocketPath is sun_path of Linux less its NUL, the longest of the platforms.
const maxSocketPath = 107

// splitPort parts host and port; without one it is port 80.
func splitPort(text string) (host, port string, err error) {
	if text == "" {
		return "", "", errors.New("it is empty")
	}
	if inner, ok := strings.CutPrefix(text, "["); ok && strings.HasSuffix(inner, "]") {
		text = strings.TrimSuffix(inner, "]")
	}
	if addr, err := netip.ParseAddr(text); err == nil {
		return addr.String(), defaultPort, nil
	}
	if !strings.Contains(text, ":") {
		return text, defaultPort, nil
	}
	host, port, err = net.SplitHostPort(text)
	if err != nil {
		return "", "", errors.New("its host and port can't be told apart")
	}
	if host == "" {
		return "", "", errors.New("the host is missing")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", "", fmt.Errorf("the port %q is not a number from 1 to 65535", port)
	}
	return host, port, nil
}
