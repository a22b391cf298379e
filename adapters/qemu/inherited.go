package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/hexworker/metaservice/domain"
)

// maxToken bounds a token: a pipe takes as much at once, so that nobody waits for its reader.
const maxToken = 4 << 10

// inherited is what QEMU gets of this process beside its end of the card. Both may be nil.
type inherited struct{ overlay, token *os.File }

// Close closes this process's end of it.
func (i inherited) Close() {
	for _, file := range []*os.File{i.overlay, i.token} {
		if file != nil {
			_ = file.Close()
		}
	}
}

// inherit makes what a guest needs that QEMU can't have by its arguments. size is that of the guest's disk,
// 0 where there is none.
func (m *Machine) inherit(ctx context.Context, size int64, token string) (files inherited, err error) {
	if size > 0 {
		if files.overlay, err = m.makeOverlay(ctx, size); err != nil {
			return files, err
		}
	}
	if token != "" {
		if files.token, err = tokenPipe(token); err != nil {
			files.Close()
			return inherited{}, fmt.Errorf("the guest's token can't be handed over: %w", err)
		}
	}
	return files, nil
}

// makeOverlay makes the file that gets what a guest writes to its disk. It has no name, so that nothing is
// left of it, whoever is killed, and when.
func (m *Machine) makeOverlay(ctx context.Context, size int64) (*os.File, error) {
	program, err := m.imageProgram()
	if err != nil {
		return nil, err
	}
	file, err := openNameless(m.config.Folder)
	if err == nil {
		const inTool = 3 // the first one after the standard ones
		_, err = runTool(ctx, program, []*os.File{file}, "create", "-q", "-f", "qcow2", fdPath(inTool), strconv.FormatInt(size, 10))
		if err != nil {
			_ = file.Close()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("what the guest writes to its disk can't be kept in %s: %w", domain.Quote(m.config.Folder), err)
	}
	return file, nil
}

// openAndRemove is openNameless for file systems on which a file begins with a name.
func openAndRemove(folder string) (*os.File, error) {
	file, err := os.CreateTemp(folder, "metaservice-disk-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(file.Name()); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// tokenPipe is a pipe that holds a token and then ends: who reads it first has it, and nobody else.
func tokenPipe(token string) (*os.File, error) {
	if len(token) > maxToken {
		return nil, fmt.Errorf("it has %d bytes, at most %d can be", len(token), maxToken)
	}
	from, to, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	_, err = io.WriteString(to, token)
	if err = errors.Join(err, to.Close()); err != nil {
		return nil, errors.Join(err, from.Close())
	}
	return from, nil
}
