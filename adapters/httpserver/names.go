package httpserver

import (
	"net"
	"net/netip"
	"strings"
)

// answers tells whether this host goes by what a request's Host header says.
func (c Config) answers(host string) bool {
	name := host
	if inner, _, err := net.SplitHostPort(host); err == nil {
		name = inner
	} else if inner, ok := strings.CutPrefix(host, "["); ok {
		name = strings.TrimSuffix(inner, "]")
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return true
	}
	if isLabel(name) {
		return true
	}
	name = strings.TrimSuffix(name, ".")
	for _, own := range c.Hosts {
		if name != "" && strings.EqualFold(name, strings.TrimSuffix(own, ".")) {
			return true
		}
	}
	return false
}

// isLabel tells a name without a dot.
func isLabel(name string) bool {
	for _, c := range name {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return name != ""
}
