package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"

	"github.com/hexworker/metaservice/adapters/bootid"
	"github.com/hexworker/metaservice/adapters/guestconfig"
	"github.com/hexworker/metaservice/adapters/guestfiles"
	"github.com/hexworker/metaservice/adapters/hostclient"
	"github.com/hexworker/metaservice/adapters/processes"
	"github.com/hexworker/metaservice/app/guest"
	"github.com/hexworker/metaservice/domain"
)

// oneCore leaves the guest's other cores to its task, where nobody has said otherwise: all that these tools
// do is to pass bytes on, of which one core does as much as a network takes, and Go's scheduler wakes other
// cores up for nothing whenever a goroutine hands something to another.
func oneCore() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
	}
}

// prepare wires a guest, and starts nothing.
func prepare(in invocation, logger *slog.Logger) (run func(context.Context) error, hurry func(), err error) {
	oneCore()
	config := guestconfig.Default()
	if in.config != "" {
		if config, err = guestconfig.Read(in.config); err != nil {
			return nil, nil, err
		}
	}
	keepSecrets()
	token, err := findToken(in.token, firmwareToken, logger)
	if err != nil {
		return nil, nil, err
	}
	host, err := hostclient.New(in.host, hostclient.Options{Token: token})
	if err != nil {
		return nil, nil, err
	}
	dir, err := filepath.Abs(config.Workdir) // of none, it is the current folder
	if err != nil {
		return nil, nil, fmt.Errorf("the working folder: %w; name one in the configuration", err)
	}
	files, err := guestfiles.New(dir)
	if err != nil {
		return nil, nil, err
	}
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0] // where there is no /proc yet
	}
	starter, err := processes.New(processes.Config{Shim: []string{self, shimCommand}, Logger: logger})
	if err != nil {
		return nil, nil, err
	}
	g, err := guest.New(guest.Config{
		Host:       host,
		Files:      files,
		Processes:  starter,
		Shells:     starter,
		Logger:     logger,
		Version:    buildVersion(),
		BootID:     bootid.Get(),
		Entrypoint: config.Entrypoint,
		Environ:    os.Environ(),
		Env:        config.Env,
		User:       config.User,
		Dir:        dir,
		Terminal:   config.TTY,
		Shell:      config.Shell,
	})
	if err != nil {
		return nil, nil, err
	}
	logger.Info("guest-tools", "version", buildVersion(), "host", host.Address())
	return func(ctx context.Context) error {
		defer host.Close()
		return g.Run(ctx)
	}, g.Hurry, nil
}

// postLog sends a file into the task's log. It doesn't wait for a read that is under way when ctx ends:
// nobody may ever write to what it reads.
func (p program) postLog(ctx context.Context, in invocation, logger *slog.Logger) error {
	keepSecrets()
	token, err := findToken(in.token, firmwareToken, logger)
	if err != nil {
		return err
	}
	host, err := hostclient.New(in.host, hostclient.Options{Token: token})
	if err != nil {
		return err
	}
	defer host.Close()
	input := p.stdin
	if in.file != "-" {
		file, err := os.Open(in.file)
		if err != nil {
			return err
		}
		defer file.Close()
		input = file
	}
	sent := make(chan error, 1)
	go func() {
		n, err := guest.PostLog(ctx, host, input)
		if err != nil {
			err = fmt.Errorf("%d bytes of %s went out, but not all of it is in the log: %w", n, name(in.file), withHint(err))
		}
		sent <- err
	}()
	select {
	case err = <-sent:
		return err
	case <-ctx.Done():
		return fmt.Errorf("not all of %s is in the log: %w", name(in.file), context.Cause(ctx))
	}
}

// withHint says what to do about a host that demands a token.
func withHint(err error) error {
	if errors.Is(err, &domain.Error{Code: domain.CodeUnauthorized}) {
		return fmt.Errorf("%w; --token-file must name the token of this guest's tools", err)
	}
	return err
}

func name(file string) string {
	if file == "-" {
		return "the standard input"
	}
	return file
}
