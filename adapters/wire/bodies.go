package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"time"

	"github.com/hexworker/metaservice/domain"
)

// ErrInvalidBody is a body that isn't what it should be.
var ErrInvalidBody = errors.New("invalid body")

// Action is an action as it goes over the wire: always with the five fields of version 1, and with those of
// the feature exec where they say something.
type Action struct {
	ID      string   `json:"id"`
	Type    string   `json:"type"`
	Path    string   `json:"path"`
	Command []string `json:"command"`
	TTY     bool     `json:"tty"`

	Env       map[string]string `json:"env,omitempty"`
	Dir       string            `json:"cwd,omitempty"`
	User      string            `json:"user,omitempty"`
	Columns   uint16            `json:"columns,omitempty"`
	Rows      uint16            `json:"rows,omitempty"`
	TimeoutMS int64             `json:"timeoutMs,omitempty"`
	Stdin     *bool             `json:"stdin,omitempty"` // true where it isn't there
}

// EncodeAction is the body of a poll's answer.
func EncodeAction(a domain.Action) []byte {
	shell := a.Shell()
	action := Action{
		ID:        string(a.ID()),
		Type:      a.Kind().String(),
		Path:      a.Path(),
		Command:   shell.Command,
		TTY:       shell.TTY,
		Env:       shell.Env,
		Dir:       shell.Dir,
		User:      shell.User,
		Columns:   shell.Columns,
		Rows:      shell.Rows,
		TimeoutMS: int64((shell.Timeout + time.Millisecond - 1) / time.Millisecond), // not less than what was asked for
	}
	if shell.NoStdin {
		action.Stdin = new(bool)
	}
	return mustMarshal(action)
}

// shell is what an exec-shell asks for.
func (a Action) shell() (domain.ShellSpec, error) {
	const most = math.MaxInt64 / int64(time.Millisecond)
	if a.TimeoutMS > most {
		return domain.ShellSpec{}, fmt.Errorf("%w: timeoutMs is %d, the most is %d", domain.ErrInvalidAction, a.TimeoutMS, most)
	}
	return domain.ShellSpec{
		Command: a.Command,
		TTY:     a.TTY,
		Env:     a.Env,
		Dir:     a.Dir,
		User:    a.User,
		Columns: a.Columns,
		Rows:    a.Rows,
		Timeout: time.Duration(a.TimeoutMS) * time.Millisecond,
		NoStdin: a.Stdin != nil && !*a.Stdin,
	}, nil
}

// DecodeAction is EncodeAction's inverse. An unknown type is domain.ErrUnknownKind; fields that it
// doesn't know are ignored, as version 1 asks.
func DecodeAction(data []byte) (domain.Action, error) {
	var a Action
	if err := json.Unmarshal(data, &a); err != nil {
		return domain.Action{}, fmt.Errorf("%w: an action: %w", ErrInvalidBody, err)
	}
	kind, err := domain.ParseKind(a.Type)
	if err != nil {
		return domain.Action{}, err
	}
	id := domain.ActionID(a.ID)
	switch kind {
	case domain.KindGetArtifact:
		return domain.GetArtifact(id, a.Path)
	case domain.KindListFolder:
		return domain.ListFolder(id, a.Path)
	case domain.KindGetFolder:
		return domain.GetFolder(id, a.Path)
	case domain.KindExecShell:
		shell, err := a.shell()
		if err != nil {
			return domain.Action{}, err
		}
		return domain.ExecShell(id, shell)
	case domain.KindKillProcess:
		return domain.KillProcess(id)
	}
	return domain.Action{}, nil
}

// EncodeExecute is the body of an execute's answer. Neither field is ever null: old guests range
// over them.
func EncodeExecute(e domain.Execute) []byte {
	if e.Env == nil {
		e.Env = map[string]string{}
	}
	if e.Command == nil {
		e.Command = []string{}
	}
	return mustMarshal(e)
}

// DecodeExecute is EncodeExecute's inverse.
func DecodeExecute(data []byte) (domain.Execute, error) {
	var e domain.Execute
	if err := json.Unmarshal(data, &e); err != nil {
		return domain.Execute{}, fmt.Errorf("%w: what to run: %w", ErrInvalidBody, err)
	}
	if err := e.Check(); err != nil {
		return domain.Execute{}, err
	}
	return e, nil
}

// EncodeHello is the body of a hello.
func EncodeHello(h domain.Hello) []byte {
	if h.Features == nil {
		h.Features = domain.Features{}
	}
	return mustMarshal(h)
}

// DecodeHello is EncodeHello's inverse.
func DecodeHello(data []byte) (domain.Hello, error) {
	var h domain.Hello
	if err := json.Unmarshal(data, &h); err != nil {
		return domain.Hello{}, fmt.Errorf("%w: %w", domain.ErrInvalidHello, err)
	}
	return h, h.Check()
}

// features is the body of a hello's answer.
type features struct {
	Features domain.Features `json:"features"`
}

// EncodeFeatures is the body of a hello's answer.
func EncodeFeatures(fs domain.Features) []byte {
	if fs == nil {
		fs = domain.Features{}
	}
	return mustMarshal(features{fs})
}

// DecodeFeatures is EncodeFeatures' inverse.
func DecodeFeatures(data []byte) (domain.Features, error) {
	var fs features
	if err := json.Unmarshal(data, &fs); err != nil {
		return nil, fmt.Errorf("%w: features: %w", ErrInvalidBody, err)
	}
	return fs.Features, nil
}

// EncodeReport is the body of a result, where both peers named the feature.
func EncodeReport(r domain.Report) []byte {
	r.Message = domain.Cut(r.Message)
	return mustMarshal(r)
}

// DecodeReport is EncodeReport's inverse. The message is a guest's: it is cut to 1 KiB, and quoted
// wherever it is shown.
func DecodeReport(data []byte) (domain.Report, error) {
	var r domain.Report
	if err := json.Unmarshal(data, &r); err != nil {
		return domain.Report{}, fmt.Errorf("%w: %w", domain.ErrInvalidReport, err)
	}
	r.Message = domain.Cut(r.Message)
	return r, r.Check()
}

// ReadAll reads a small body whole, up to limit bytes; one more is a LimitError that names what.
func ReadAll(r io.Reader, limit int64, what string) ([]byte, error) {
	var buf bytes.Buffer
	n, err := buf.ReadFrom(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if n > limit {
		return nil, &domain.LimitError{Limit: what, Max: limit, Unit: "bytes"}
	}
	return buf.Bytes(), nil
}

// IsJSON tells whether a Content-Type header says JSON, with whatever parameters.
func IsJSON(contentType string) bool { return isMedia(contentType, TypeJSON) }

// IsTar tells whether a Content-Type header says tar, with whatever parameters.
func IsTar(contentType string) bool { return isMedia(contentType, TypeTar) }

func isMedia(contentType, want string) bool {
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && media == want
}
