//go:build linux

package threats

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/hexworker/metaservice/adapters/wire"
)

// attackers are the attackers by name. Each file of tests registers its own, in an init.
var attackers = make(map[string]func(*raid) error)

// register adds attackers.
func register(name string, attack func(*raid) error) {
	if attackers[name] != nil {
		panic("two attackers are called " + name)
	}
	attackers[name] = attack
}

// raidSpec is what an attacker is told, as JSON on its standard input. Its end is the attack's.
type raidSpec struct {
	Name, Network, Address string
	Args                   map[string]string
}

// word is what an attacker says, as JSON on its standard output.
type word struct {
	Said  string
	Tally *Tally // the last word
}

// Tally is what an attacker has counted.
type Tally struct {
	Err    string // why the attack could not be made
	Counts map[string]int64
	Times  map[string]time.Duration
	Texts  map[string]string
	CPU    time.Duration // of the attacker
}

// raid is one attack, as its attacker sees it.
type raid struct {
	raidSpec
	ctx context.Context // ends when the test says so

	mu    sync.Mutex // guards what follows
	words *json.Encoder
	tally Tally
}

// playAttacker is the process of an attacker.
func playAttacker() int {
	input := bufio.NewReader(os.Stdin)
	line, err := input.ReadBytes('\n')
	r := &raid{words: json.NewEncoder(os.Stdout)}
	if err == nil {
		err = json.Unmarshal(line, &r.raidSpec)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	r.tally = Tally{Counts: make(map[string]int64), Times: make(map[string]time.Duration), Texts: make(map[string]string)}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r.ctx = ctx
	go func() {
		io.Copy(io.Discard, input)
		cancel()
	}()
	if err := attackers[r.Name](r); err != nil {
		r.tally.Err = err.Error()
	}
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err == nil {
		r.tally.CPU = time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.words.Encode(word{Tally: &r.tally})
	return 0
}

// over tells whether the attack is to end.
func (r *raid) over() bool { return r.ctx.Err() != nil }

// say tells the test something, in the midst of the attack.
func (r *raid) say(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.words.Encode(word{Said: what})
}

// count adds to a count of the tally.
func (r *raid) count(what string, n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tally.Counts[what] += n
}

// took notes a time in the tally.
func (r *raid) took(what string, d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tally.Times[what] = d
}

// text notes a text in the tally.
func (r *raid) text(what, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tally.Texts[what] = text
}

// number is an argument; 0 where it isn't there.
func (r *raid) number(name string) int {
	n, _ := strconv.Atoi(r.Args[name])
	return n
}

// dial opens a connection.
func (r *raid) dial() (net.Conn, error) {
	return net.DialTimeout(cmp.Or(r.Network, "tcp"), r.Address, 10*time.Second)
}

// answer is an answer of the host's, whole.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// ask writes a request that is bytes and reads its answer, on a connection of its own. What can't be
// written any more is no error: the answer tells.
func (r *raid) ask(request []byte) (answer, error) { return r.askWithin(context.Background(), request) }

// askWithin is ask, which ends with ctx.
func (r *raid) askWithin(ctx context.Context, request []byte) (answer, error) {
	conn, err := r.dial()
	if err != nil {
		return answer{}, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	conn.SetDeadline(time.Now().Add(time.Minute))
	conn.Write(request)
	return readAnswer(bufio.NewReader(conn))
}

func readAnswer(from *bufio.Reader) (answer, error) {
	response, err := http.ReadResponse(from, nil)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, response.Header, body}, err
}

// poll polls until there is something to do, or the attack is over.
func (r *raid) poll() (wire.Action, error) {
	for {
		answer, err := r.askWithin(r.ctx, []byte("GET "+wire.PathPoll+" HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n\r\n"))
		if err != nil {
			return wire.Action{}, err
		}
		var action wire.Action
		if err := json.Unmarshal(answer.body, &action); err != nil || answer.status != http.StatusOK {
			return wire.Action{}, fmt.Errorf("a poll got %d %s: %w", answer.status, answer.body, err)
		}
		if action.Type != "none" {
			return action, nil
		}
		if r.over() {
			return wire.Action{}, r.ctx.Err()
		}
	}
}

// reply is the head of a reply to an action, up to its length's header.
func reply(id string) string {
	return "POST " + wire.PathReply + "?id=" + id + " HTTP/1.1\r\nHost: 169.254.169.254\r\n"
}

// sized is the end of a head, for a body of so many bytes.
func sized(n int64) string { return fmt.Sprintf("Content-Length: %d\r\n\r\n", n) }

// chunked is the end of a head, for a body in chunks.
const chunked = "Transfer-Encoding: chunked\r\n\r\n"
