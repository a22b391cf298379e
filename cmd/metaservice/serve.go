package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hexworker/metaservice/adapters/httpserver"
	"github.com/hexworker/metaservice/adapters/listenmachine"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

func serveCommand(to streams) *cobra.Command {
	var flags jobFlags
	var listen string
	var names []string
	cmd := &cobra.Command{
		Use:   "serve --listen ADDRESS [flags] -- COMMAND [ARGUMENT...]",
		Short: "Run a task in a guest that is started elsewhere",
		Long: `Wait at an address for a guest that somebody starts elsewhere, and have it run one
task. The rest is as with run. Whoever reaches the address can read what the task is
given, and answer in its place: let nobody but the guest. With --token required it is only
the first who asks for the token.`,
		Example: "  metaservice serve --listen 127.0.0.1:8080 --artifact /var/log/boot.log -- uname -a",
		RunE: func(cmd *cobra.Command, args []string) error {
			return flags.run(cmd, args, to, func(around *setting) (ports.Machine, error) {
				if listen == "" {
					return nil, usagef("--listen is missing: it must be HOST:PORT, :PORT or unix:/PATH")
				}
				machine, err := listenmachine.New(listenmachine.Config{
					Address:   listen,
					Serve:     around.serveAs(append(names, hostOf(listen))...),
					Listening: func(address string) { invite(around.say, address, domain.TokenMode(flags.token)) },
				})
				if err != nil {
					return nil, usagef("--listen: %w", err)
				}
				return machine, nil
			})
		},
	}
	cmd.Flags().StringVarP(&listen, "listen", "l", "", "wait for the guest at this `ADDRESS`: HOST:PORT, :PORT or unix:/PATH")
	cmd.Flags().StringArrayVar(&names, "host-name", nil, "answer guests that use this `NAME`, with a dot, for here")
	flags.add(cmd)
	return cmd
}

// hostOf is the host of an address, empty where it has none.
func hostOf(address string) string {
	if strings.HasPrefix(address, "unix:") {
		return ""
	}
	host, _, _ := net.SplitHostPort(address)
	return host
}

// invite tells where a guest is waited for, and how to start one.
func invite(to io.Writer, address string, mode domain.TokenMode) {
	fmt.Fprintf(to, "metaservice: serving on %s\n", address)
	dial := address
	host, port, err := net.SplitHostPort(address)
	if ip, ipErr := netip.ParseAddr(host); err == nil && ipErr == nil && ip.IsUnspecified() {
		dial = net.JoinHostPort("ADDRESS-OF-THIS-MACHINE", port)
	}
	fmt.Fprintf(to, "metaservice: start a guest with: guest-tools --host %s\n", dial)
	if ip, ipErr := netip.ParseAddr(host); !strings.HasPrefix(address, "unix:") && (ipErr != nil || !ip.IsLoopback()) {
		who := "whoever reaches this address"
		if mode == domain.TokenRequired {
			who = "whoever asks for the token at this address, and is the first,"
		}
		fmt.Fprintf(to, "metaservice: %s can read the task's variables and answer in its place\n", who)
	}
}

// serve serves a guest with the hardened server.
func (s *setting) serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	return s.serveAs()(ctx, listener, handler)
}

// serveAs is serve for guests that call their host by one of these names.
func (s *setting) serveAs(names ...string) func(context.Context, net.Listener, http.Handler) error {
	return func(ctx context.Context, listener net.Listener, handler http.Handler) error {
		return httpserver.Config{Hosts: names}.Serve(ctx, listener, handler, s.inner)
	}
}
