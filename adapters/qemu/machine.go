package qemu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// Boot implements ports.Machine.
func (m *Machine) Boot(ctx context.Context, options ports.BootOptions) (ports.Guest, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	wish, err := m.wish(options.Options)
	if err != nil {
		return nil, err
	}
	wish.token = options.Token != ""
	found, err := m.check(ctx, wish)
	if err != nil {
		return nil, err
	}
	acceleration, err := m.accelerate()
	if err != nil {
		return nil, err
	}
	files, err := m.inherit(ctx, found.diskSize, options.Token)
	if err != nil {
		return nil, err
	}
	defer files.Close()
	g := newGuest(m.config)
	if m.config.Console != nil {
		if g.log, err = m.config.Console(); err != nil {
			return nil, fmt.Errorf("the guest's console can't be kept: %w", err)
		}
	}
	if err := g.start(found.program, m.arguments(wish, acceleration), wish.nat, files); err != nil {
		if g.log != nil {
			err = errors.Join(err, g.log.Close())
		}
		return nil, fmt.Errorf("QEMU, %s, can't be started: %w", domain.Quote(found.program), err)
	}
	g.begin(options.Handler)
	if ctx.Err() != nil {
		return nil, errors.Join(context.Cause(ctx), g.Stop(ctx))
	}
	m.config.Logger.Debug("guest booted", slog.Int("pid", g.process.cmd.Process.Pid), slog.Int64("memory", wish.memory),
		slog.Int("cpus", wish.cpus), slog.Bool("nat", wish.nat), slog.String("acceleration", string(acceleration)))
	return g, nil
}

// HandsTokenOver implements ports.MachineWithToken. The firmware has the token, in a guest's memory and QEMU's,
// and nothing else on the host does.
func (m *Machine) HandsTokenOver() {}

// Isolated tells that guests reach neither their host's files nor its processes, and no network: where a
// task may be let out, it is false.
func (m *Machine) Isolated() bool { return !m.config.AllowNAT }
