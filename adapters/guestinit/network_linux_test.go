package guestinit

import (
	"net"
	"strings"
	"testing"
)

// Drivers make devices of their own, which may come first: sit0 and tunl0, for one.
func TestTheNetworksDeviceIsTheOneWithHardware(t *testing.T) {
	for line, want := range map[string][2]string{
		"":                       {"", ""},
		"lo":                     {"", ""},
		"lo sit0 card0":          {"card0", ""},
		"veth0 sit0 card1 card0": {"card1", ""},
		"lo sit0 veth1 veth0":    {"veth1", "sit0"},
		"lo tunl0 sit0":          {"", "tunl0"},
	} {
		var links []net.Interface
		for one := range strings.FieldsSeq(line) {
			link := net.Interface{Index: len(links) + 1, Name: one}
			if one == "lo" {
				link.Flags = net.FlagLoopback
			}
			links = append(links, link)
		}
		starts := func(with string) func(string) bool {
			return func(name string) bool { return strings.HasPrefix(name, with) }
		}
		card, other := pick(links, starts("card"), starts("veth"))
		if got := [2]string{card.Name, other.Name}; got != want {
			t.Errorf("of %q, %q are picked, want %q", line, got, want)
		}
	}
	if hasHardware("lo") || isPair("lo") {
		t.Error("lo has hardware, or another end")
	}
}
