package guestinit

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseOptions(t *testing.T) {
	defaults := options{address: netip.MustParsePrefix("169.254.169.2/24")}
	with := func(change func(*options)) options {
		o := defaults
		change(&o)
		return o
	}
	for line, want := range map[string]options{
		"": defaults,
		"console=ttyS0 panic=-1 quiet root=/dev/sda net=dhcp\n": defaults,
		"metaservice.net=static":                                defaults,
		"metaservice.net=dhcp":                                  with(func(o *options) { o.dhcp = true }),
		"quiet metaservice.address=10.0.0.7/8 metaservice.gateway=10.0.0.1": with(func(o *options) {
			o.address, o.gateway = netip.MustParsePrefix("10.0.0.7/8"), netip.MustParseAddr("10.0.0.1")
		}),
		"metaservice.dns=169.254.169.254,fe80::1": with(func(o *options) {
			o.dns = []netip.Addr{netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("fe80::1")}
		}),
		"metaservice.root=/dev/vda metaservice.init=/lib/systemd/systemd": with(func(o *options) {
			o.root, o.init = "/dev/vda", "/lib/systemd/systemd"
		}),
	} {
		got, err := parseOptions(line)
		if err != nil {
			t.Errorf("%q: %v", line, err)
		}
		equal := cmp.Options{cmp.AllowUnexported(options{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
			cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })}
		if diff := cmp.Diff(want, got, equal); diff != "" {
			t.Errorf("%q:\n%s", line, diff)
		}
	}
}

func TestParseOptionsIsStrict(t *testing.T) {
	for line, want := range map[string]string{
		"metaservice.adress=10.0.0.7/8":                           "there is no such option",
		"metaservice.net=bootp":                                   "must be static or dhcp",
		"metaservice.net":                                         "must be static or dhcp",
		"metaservice.address=10.0.0.7":                            "length of its network",
		"metaservice.gateway=router":                              "must be an address",
		"metaservice.dns=10.0.0.1,":                               "must be an address",
		"metaservice.root=vda":                                    "must be a path",
		"metaservice.root=/dev/vda metaservice.init=init":         "must be a path",
		"metaservice.init=/sbin/init":                             "without metaservice.root",
		"metaservice.net=dhcp metaservice.net=dhcp":               "twice",
		"metaservice.net=dhcp metaservice.address=10.0.0.7/8":     "finds that out by itself",
		"metaservice.gateway=10.0.0.1 metaservice.net=dhcp":       "finds that out by itself",
		"metaservice.dns=10.0.0.1 console=x metaservice.net=dhcp": "finds that out by itself",
	} {
		if _, err := parseOptions(line); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: the error is %v, want one with %q", line, err, want)
		}
	}
}

func TestResolvConf(t *testing.T) {
	got := resolvConf([]netip.Addr{netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("fe80::1")})
	if want := "nameserver 169.254.169.254\nnameserver fe80::1\n"; got != want {
		t.Errorf("it is %q, want %q", got, want)
	}
}
