package guestinit

import (
	"net"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// Drivers make devices of their own, which may come first: sit0 and tunl0, for one.
func TestTheNetworksDeviceIsTheOneWithHardware(t *testing.T) {
	kinds := map[string]netlink.Link{
		"lo":    &netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "lo", Flags: net.FlagLoopback}},
		"sit0":  &netlink.Sittun{LinkAttrs: netlink.LinkAttrs{Name: "sit0"}},
		"tunl0": &netlink.Iptun{LinkAttrs: netlink.LinkAttrs{Name: "tunl0"}},
		"veth0": &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "veth0"}},
		"veth1": &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "veth1"}},
		"card0": &netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "card0"}},
		"card1": &netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "card1"}},
	}
	name := func(link netlink.Link) string {
		if link == nil {
			return ""
		}
		return link.Attrs().Name
	}
	for line, want := range map[string][2]string{
		"":                       {"", ""},
		"lo":                     {"", ""},
		"lo sit0 card0":          {"card0", ""},
		"veth0 sit0 card1 card0": {"card1", ""},
		"lo sit0 veth1 veth0":    {"veth1", "sit0"},
		"lo tunl0 sit0":          {"", "tunl0"},
	} {
		var links []netlink.Link
		for one := range strings.FieldsSeq(line) {
			links = append(links, kinds[one])
		}
		card, other := pick(links, func(name string) bool { return strings.HasPrefix(name, "card") })
		if got := [2]string{name(card), name(other)}; got != want {
			t.Errorf("of %q, %q are picked, want %q", line, got, want)
		}
	}
	if hasHardware("lo") {
		t.Error("lo has hardware")
	}
}
