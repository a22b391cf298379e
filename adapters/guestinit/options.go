package guestinit

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"strings"

	"github.com/hexworker/metaservice/domain"
)

// optionPrefix begins each word of the kernel's command line that is for us.
const optionPrefix = "metaservice."

// options are what the kernel's command line says.
type options struct {
	dhcp    bool
	address netip.Prefix // and the following: of a static network
	gateway netip.Addr   // none: no route but to the network itself
	dns     []netip.Addr
	root    string // a disk to go on from; "" is none
	init    string // of that disk; "" is to be found
}

// defaultAddress is the guest's on a network of its own, on which the host is 169.254.169.254.
var defaultAddress = netip.MustParsePrefix("169.254.169.2/24")

// parseOptions reads the kernel's command line. It is strict with what is ours: nobody watches a guest
// start.
func parseOptions(line string) (options, error) {
	o := options{address: defaultAddress}
	given := make(map[string]bool)
	for word := range strings.FieldsSeq(line) {
		if !strings.HasPrefix(word, optionPrefix) {
			continue
		}
		name, value, _ := strings.Cut(word, "=")
		if given[name] {
			return options{}, fmt.Errorf("%s is there twice on the kernel's command line", name)
		}
		given[name] = true
		if err := o.set(strings.TrimPrefix(name, optionPrefix), value); err != nil {
			return options{}, fmt.Errorf("%s on the kernel's command line: %w", domain.Quote(word), err)
		}
	}
	for _, name := range []string{"address", "gateway", "dns"} {
		if o.dhcp && given[optionPrefix+name] {
			return options{}, fmt.Errorf("%s%s is on the kernel's command line beside %snet=dhcp, which finds that out by itself", optionPrefix, name, optionPrefix)
		}
	}
	if o.init != "" && o.root == "" {
		return options{}, fmt.Errorf("%sinit is on the kernel's command line without %sroot", optionPrefix, optionPrefix)
	}
	return o, nil
}

func (o *options) set(name, value string) (err error) {
	switch name {
	case "net":
		o.dhcp = value == "dhcp"
		if value != "dhcp" && value != "static" {
			return errors.New("it must be static or dhcp")
		}
	case "address":
		if o.address, err = netip.ParsePrefix(value); err != nil {
			return errors.New("it must be an address with the length of its network, like 169.254.169.2/24")
		}
	case "gateway":
		o.gateway, err = parseAddress(value)
	case "dns":
		for one := range strings.SplitSeq(value, ",") {
			address, err := parseAddress(one)
			if err != nil {
				return err
			}
			o.dns = append(o.dns, address)
		}
	case "root":
		o.root, err = absolute(value)
	case "init":
		o.init, err = absolute(value)
	default:
		return errors.New("there is no such option: there are net, address, gateway, dns, root and init")
	}
	return err
}

func parseAddress(value string) (netip.Addr, error) {
	address, err := netip.ParseAddr(value)
	if err != nil {
		return netip.Addr{}, errors.New("it must be an address, like 169.254.169.254")
	}
	return address, nil
}

func absolute(value string) (string, error) {
	if !path.IsAbs(value) {
		return "", errors.New("it must be a path from / on")
	}
	return path.Clean(value), nil
}

// resolvConf is the text of /etc/resolv.conf.
func resolvConf(servers []netip.Addr) string {
	var text strings.Builder
	for _, server := range servers {
		fmt.Fprintf(&text, "nameserver %s\n", server)
	}
	return text.String()
}
