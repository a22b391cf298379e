//go:build unix

package scripts

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/gorilla/websocket"
)

// guest1 is a guest of version 1, as images have it that were baked years ago: it says no hello, and
// reports a success or a failure and no more. It runs nothing: its command tells it what to play.
//
//	true, false    succeed or fail
//	wait           go on until it is killed, then fail
//
// Its shell reads its input to the end, tells what it was asked for, and succeeds.
//
// Of the files that it is asked for, each holds its own path; "missing" is one that isn't there, and
// "slow" one that never ends. The folder /evil has names that lead out of it, /locked files that can't
// be read, and /huge a name that is long.
func guest1() {
	guest := &player{host: "http://" + os.Args[1] + "/engine/v1"}
	if err := guest.play(); err != nil {
		fmt.Fprintln(os.Stderr, "guest1:", err)
		os.Exit(1)
	}
}

type player struct {
	host string
	log  *io.PipeWriter // where "wait" keeps its log open; nil for the others
	end  chan error     // of that log
}

func (p *player) play() error {
	var execute struct {
		Env     map[string]string
		Command []string
	}
	if err := p.get("/execute", &execute); err != nil {
		return err
	}
	text := fmt.Sprintf("guest1 plays %q with %v\n", execute.Command, execute.Env)
	switch execute.Command[0] {
	case "wait":
		reader, writer := io.Pipe()
		p.log, p.end = writer, make(chan error, 1)
		go func() { p.end <- p.send(http.MethodPost, "/log", "", reader) }()
		io.WriteString(writer, text)
	case "true", "false":
		result := map[string]string{"true": "/success", "false": "/failed"}[execute.Command[0]]
		if err := p.send(http.MethodPost, "/log", "", strings.NewReader(text)); err != nil {
			return err
		}
		if err := p.send(http.MethodPut, result, "", nil); err != nil {
			return err
		}
	}
	for p.poll() == nil { // until the host is gone
	}
	return nil
}

func (p *player) poll() error {
	var action struct {
		ID, Type, Path string
		Command        []string
		TTY            bool
	}
	if err := p.get("/poll", &action); err != nil {
		return err
	}
	reply := "/reply?id=" + url.QueryEscape(action.ID)
	switch action.Type {
	case "get-artifact":
		if strings.Contains(action.Path, "missing") {
			return p.send(http.MethodPost, reply, "file-not-found", nil)
		}
		if strings.Contains(action.Path, "slow") {
			return p.send(http.MethodPost, reply, "", slow{})
		}
		return p.send(http.MethodPost, reply, "", strings.NewReader(action.Path))
	case "list-folder":
		return p.send(http.MethodPost, reply, "", folder(action.Path))
	case "exec-shell":
		return p.shell(reply, action.Command, action.TTY)
	case "kill-process":
		if err := p.send(http.MethodPost, reply, "", nil); err != nil {
			return err
		}
		p.log.Close()
		if err := <-p.end; err != nil {
			return err
		}
		return p.send(http.MethodPut, "/failed", "", nil)
	}
	return nil
}

// shell plays a shell of version 1: [type][data], where type 0 is data of a stream, and 5 the exit.
func (p *player) shell(reply string, command []string, tty bool) error {
	socket, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(p.host, "http")+reply, nil)
	if err != nil {
		return err
	}
	defer socket.Close()
	var input []byte
	for {
		_, message, err := socket.ReadMessage()
		if err != nil {
			return err
		}
		if message[0] != 0 {
			continue
		}
		if len(message) == 2 {
			break
		}
		input = append(input, message[2:]...)
	}
	text := fmt.Sprintf("guest1 plays %q, terminal %v, with the input %q\n", command, tty, input)
	for _, message := range [][]byte{append([]byte{0, 1}, text...), {0, 1}, {0, 2}, {5, 0}} {
		if err := socket.WriteMessage(websocket.BinaryMessage, message); err != nil {
			return err
		}
	}
	return nil
}

// slow is a file that never ends.
type slow struct{}

func (slow) Read(b []byte) (int, error) {
	pause()
	return copy(b, bytes.Repeat([]byte{'x'}, 1<<10)), nil
}

func folder(path string) io.Reader {
	files := map[string]any{"files": []string{path}, "notFound": false}
	switch {
	case strings.Contains(path, "missing"):
		files = map[string]any{"files": nil, "notFound": true}
	case path == "/locked":
		files["files"] = []string{"/locked/missing.1", "/locked/missing.2"}
	case path == "/huge":
		files["files"] = []string{"/huge/" + strings.Repeat("x", 200)}
	case path == "/evil":
		files["files"] = []string{"/evil/good", "/evil/../../bad", "/etc/bad", "/evil//bad"}
	}
	text, _ := json.Marshal(files)
	return bytes.NewReader(text)
}

func (p *player) get(path string, into any) error {
	response, err := http.Get(p.host + path)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, response.Status)
	}
	return json.NewDecoder(response.Body).Decode(into)
}

func (p *player) send(method, path, guestError string, body io.Reader) error {
	request, err := http.NewRequest(method, p.host+path, body)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	if guestError != "" {
		request.Header.Set("X-Taskcluster-Worker-Error", guestError)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s", method, path, response.Status)
	}
	return nil
}
