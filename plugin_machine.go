package metaservice

import (
	"context"
	"log/slog"
	"net"
	"net/http"

	"github.com/hexworker/metaservice/adapters/httpserver"
	"github.com/hexworker/metaservice/adapters/processes"
	"github.com/hexworker/metaservice/adapters/processmachine"
	"github.com/hexworker/metaservice/ports"
)

// shimCommand is guest-tools' own argument under which they hold the processes of a guest. It ends all
// of them even where the host is killed.
const shimCommand = "tree-shim"

// newProcessMachine makes the machine that an Environment without one has.
func newProcessMachine(tools, folder string, logger *slog.Logger) (ports.Machine, error) {
	trees, err := processes.New(processes.Config{
		Mode: processes.ModeShim, Shim: []string{tools, shimCommand}, Logger: logger,
	})
	if err != nil {
		return nil, err
	}
	return processmachine.New(processmachine.Config{
		GuestTools: tools,
		Processes:  trees,
		Serve: func(ctx context.Context, listener net.Listener, handler http.Handler) error {
			return httpserver.Serve(ctx, listener, handler, logger)
		},
		Folder: folder,
		Logger: logger,
	})
}
