//go:build linux

package threats

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
)

func init() { register("texts", texts) }

// strictLog is a log that looks whether what it is told can be shown on a terminal: nothing on its way to it
// quotes anything.
type strictLog struct{ with []slog.Attr }

// strict is what a process's strictLogs have found.
var strict struct {
	sync.Mutex
	Verdict
}

// Verdict is what a log was told.
type Verdict struct {
	Lines   int
	Longest int      // in bytes
	Bad     []string // quoted
}

func (strictLog) Enabled(context.Context, slog.Level) bool { return true }
func (l strictLog) WithAttrs(with []slog.Attr) slog.Handler {
	return strictLog{slices.Concat(l.with, with)}
}
func (l strictLog) WithGroup(string) slog.Handler { return l }

func (l strictLog) Handle(_ context.Context, record slog.Record) error {
	var line strings.Builder
	line.WriteString(record.Message)
	var write func(slog.Attr)
	write = func(attr slog.Attr) {
		fmt.Fprintf(&line, " %s=", attr.Key)
		value := attr.Value.Resolve()
		if value.Kind() == slog.KindGroup {
			for _, inner := range value.Group() {
				write(inner)
			}
			return
		}
		fmt.Fprintf(&line, "%v", value.Any())
	}
	for _, attr := range l.with {
		write(attr)
	}
	record.Attrs(func(attr slog.Attr) bool {
		write(attr)
		return true
	})
	text := line.String()
	strict.Lock()
	defer strict.Unlock()
	strict.Lines++
	strict.Longest = max(strict.Longest, len(text))
	if !readable(text) && len(strict.Bad) < 10 {
		strict.Bad = append(strict.Bad, fmt.Sprintf("%q", text))
	}
	return nil
}

// readable tells whether text can be shown on a terminal: it is text, and controls nothing.
func readable(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, func(c rune) bool { return !unicode.IsPrint(c) })
}

// Verdict tells what was logged.
func (h *Host) Verdict(_ struct{}, verdict *Verdict) error {
	strict.Lock()
	defer strict.Unlock()
	*verdict = strict.Verdict
	return nil
}

// nasty is what does harm on a terminal or in a log: control characters of one byte and of two, sequences that
// terminals act upon, ends of lines, marks that turn the text around, and bytes that are no text.
var nasty = []string{
	"\x1b[31m", "\x1b]0;title\a", "\x1b[2J", "\x00", "\a", "\b", "\r", "\n", "\r\nlevel=ERROR msg=forged", "\x7f", "\t",
	"\u009b31m", "\x9b31m", "\u0085", "\u2028", "\u202e", "\u2066", "\ufeff", "\xff\xfe", "\xc3", "\xed\xa0\x80", "%s%n", "é",
}

// nastyText is some of that, and now and then much.
func nastyText(random *rand.Rand) string {
	var text strings.Builder
	for range 1 + random.IntN(4) {
		text.WriteString([]string{"", "x", "some words "}[random.IntN(3)])
		text.WriteString(nasty[random.IntN(len(nasty))])
	}
	if random.IntN(10) == 0 {
		return strings.Repeat(text.String(), 400)
	}
	return text.String()
}

// inHeader is text as it gets through net/http in a header: it refuses control characters of one byte.
func inHeader(text string) string {
	return string(slices.DeleteFunc([]byte(text), func(c byte) bool { return c < ' ' || c == 0x7f }))
}

// inJSON is text in a string of JSON: escaped, as a program would, or as it is.
func inJSON(random *rand.Rand, text string) string {
	escaped, _ := json.Marshal(text)
	if random.IntN(3) == 0 {
		return `"` + strings.ReplaceAll(text, `"`, "") + `"`
	}
	return string(escaped)
}

// posted is a request with a body.
func posted(method, target, header, body string) string {
	return withHeader(method+" "+target+" HTTP/1.1\r\nHost: 169.254.169.254\r\n"+sized(int64(len(body)))+body, header)
}

const typeJSON = "Content-Type: application/json"

// fields are requests with a text in each place that a guest's text may stand in.
var fields = []func(random *rand.Rand, text string) string{
	func(_ *rand.Rand, text string) string { return text + " / HTTP/1.1\r\nHost: h\r\n\r\n" },
	func(_ *rand.Rand, text string) string { return "GET /" + text + " HTTP/1.1\r\nHost: h\r\n\r\n" },
	func(_ *rand.Rand, text string) string { return "GET / " + text + "\r\nHost: h\r\n\r\n" },
	func(_ *rand.Rand, text string) string { return text + "\r\n\r\n" },
	func(_ *rand.Rand, text string) string { return "\x16\x03\x01" + text + "\r\n\r\n" },
	func(_ *rand.Rand, text string) string { return bare(http.MethodGet, "/engine/v1/"+percent(text)) },
	func(_ *rand.Rand, text string) string { return bare(http.MethodPost, "/"+percent(text)) },
	func(_ *rand.Rand, text string) string { return bare("X"+inHeader(text), wire.PathPing) },
	func(_ *rand.Rand, text string) string {
		return bare(http.MethodGet, wire.PathPing+"?id="+percent(text))
	},
	func(_ *rand.Rand, text string) string {
		return bare(http.MethodPost, wire.PathReply+"?id="+percent(text))
	},
	func(_ *rand.Rand, text string) string { return upgrade(percent(text)) },
	func(_ *rand.Rand, text string) string {
		return strings.Replace(bare(http.MethodGet, wire.PathPing), "169.254.169.254", text, 1)
	},
	func(_ *rand.Rand, text string) string {
		return strings.Replace(bare(http.MethodGet, wire.PathPing), "169.254.169.254", inHeader(text)+".example", 1)
	},
	func(random *rand.Rand, text string) string {
		names := []string{"Origin", "X-Forwarded-For", "Via", "Authorization", "Expect", "Transfer-Encoding", "Content-Length", "Connection", "Upgrade", "Content-Type", "X-" + text}
		if random.IntN(2) == 0 {
			text = inHeader(text)
		}
		return withHeader(bare(http.MethodGet, wire.PathPing), names[random.IntN(len(names))]+": "+text)
	},
	func(random *rand.Rand, text string) string {
		hello := []string{`"1"`, `"boot"`, `"linux"`, `"amd64"`, `"result"`}
		hello[random.IntN(len(hello))] = inJSON(random, text)
		return posted(http.MethodPost, wire.PathHello, typeJSON,
			fmt.Sprintf(`{"version":%s,"bootId":%s,"os":%s,"arch":%s,"features":["result",%s]}`, hello[0], hello[1], hello[2], hello[3], hello[4]))
	},
	func(_ *rand.Rand, text string) string {
		return posted(http.MethodPost, wire.PathHello, typeJSON, `{"version":`+text)
	},
	func(_ *rand.Rand, text string) string {
		return posted(http.MethodPost, wire.PathHello, typeJSON, `{"bootId":7,`+inJSONKey(text)+`:1}`)
	},
	func(random *rand.Rand, text string) string {
		report := []string{`"SIGKILL"`, `"killed"`, `"why"`}
		report[random.IntN(len(report))] = inJSON(random, text)
		return posted(http.MethodPut, wire.PathFailed, typeJSON,
			fmt.Sprintf(`{"exitCode":1,"signal":%s,"reason":%s,"message":%s}`, report[0], report[1], report[2]))
	},
	func(_ *rand.Rand, text string) string { return posted(http.MethodPut, wire.PathFailed, typeJSON, text) },
	func(_ *rand.Rand, text string) string { // a log whose chunks are none
		return "POST " + wire.PathLog + " HTTP/1.1\r\nHost: 169.254.169.254\r\n" + chunked + text + "\r\n" + text
	},
}

func inJSONKey(text string) string { key, _ := json.Marshal(text); return string(key) }

// percent is text in a target.
func percent(text string) string {
	var escaped strings.Builder
	for i := range len(text) {
		fmt.Fprintf(&escaped, "%%%02x", text[i])
	}
	return escaped.String()
}

// answers are replies to an action of each kind, with a text in them.
func answerNastily(random *rand.Rand, action wire.Action, text string) string {
	target := wire.PathReply + "?id=" + action.ID
	switch {
	case action.Type == "list-folder" && random.IntN(2) == 0:
		return posted(http.MethodPost, target, "Content-Type: "+inHeader(text), `{"files":[],"notFound":false}`)
	case action.Type == "list-folder":
		return posted(http.MethodPost, target, typeJSON, []string{
			`{"files":[` + inJSON(random, text), `{` + text, `{"files":` + inJSON(random, text) + `}`,
		}[random.IntN(3)])
	case action.Type == "exec-shell":
		return strings.Replace(upgrade(action.ID), "AAECAwQFBgcICQoLDA0ODw==", inHeader(text), 1)
	case random.IntN(2) == 0:
		return posted(http.MethodPost, target, "X-Taskcluster-Worker-Error: "+inHeader(text), "")
	}
	return "POST " + target + " HTTP/1.1\r\nHost: 169.254.169.254\r\n" + chunked + text + "\r\n"
}

// texts says nasty things: first in the answers to so many actions, and on shells, then in so many requests. It
// polls with its own version of the protocol, so that it is asked for all that there is.
func texts(r *raid) error {
	random := rand.New(rand.NewPCG(uint64(r.number("seed")), 31))
	if err := r.hello("1", domain.FeatureResult, domain.FeatureShell2, domain.FeatureExec); err != nil {
		return err
	}
	for range r.number("actions") {
		action, err := r.poll()
		if err != nil {
			return err
		}
		text := nastyText(random)
		if action.Type == "exec-shell" && random.IntN(4) > 0 {
			s, err := r.connect(action)
			if err != nil {
				return err
			}
			reason := `"exited"`
			if random.IntN(2) == 0 {
				reason = inJSON(random, text)
			}
			s.send([][]byte{
				frame(opClose, append([]byte{0x03, 0xe8}, text[:min(len(text), 100)]...)...),
				frame(opText, []byte(text)...),
				message(domain.Frame{Type: domain.FrameReport, Bytes: fmt.Appendf(nil, `{"exitCode":1,"signal":"","reason":%s,"message":%s}`, reason, inJSON(random, text))}),
			}[random.IntN(3)], exit(true))
			s.Close()
			continue
		}
		r.ask([]byte(answerNastily(random, action, text))) // an end in place of an answer is fine
	}
	for i := range r.number("requests") {
		r.ask([]byte(fields[i%len(fields)](random, nastyText(random))))
		r.count("requests", 1)
	}
	return nil
}

// Threat 31. What a guest says ends up before the eyes of people, in a log or on a terminal, which acts upon it. Of
// no field does a control character get to the host's log, or more than a KiB, or into an error.
func TestThreat31GuestTextInLogs(t *testing.T) {
	t.Parallel()
	h := startHost(t, HostSpec{})
	for range often(2, 8) { // the host's server slows each down that dials too often
		guest := h.add(t, AddGuest{Limits: metaservice.Limits{
			Requests: 1e6, RequestBurst: 1e6, Tries: 1, Reply: 2 * time.Second, Stall: 2 * time.Second,
		}})
		const each = 8
		var got []<-chan Got
		var listed []<-chan Listed
		var opened []<-chan Opened
		var killed []<-chan Got
		for range each {
			got = append(got, begin[Got](t, h, "Artifact", Ask{Guest: guest, Path: "/file"}))
			listed = append(listed, begin[Listed](t, h, "List", Ask{Guest: guest, Path: "/folder"}))
			opened = append(opened, begin[Opened](t, h, "OpenShell", OpenShell{Guest: guest, Within: time.Minute}))
			killed = append(killed, begin[Got](t, h, "Kill", Ask{Guest: guest}))
		}
		seed := rand.Uint32()
		tally := attackGuest(t, h, guest, "texts", map[string]string{
			"actions": fmt.Sprint(4 * each), "requests": fmt.Sprint(often(100, 2000)), "seed": fmt.Sprint(seed),
		}).wait(t)
		if tally.Counts["requests"] == 0 {
			t.Error("nothing was said")
		}
		var told []Failure
		for i := range each {
			told = append(told, within(t, time.Minute, "an artifact", got[i]).Failure, within(t, time.Minute, "a list", listed[i]).Failure,
				within(t, time.Minute, "a kill", killed[i]).Failure)
			shell := within(t, time.Minute, "a shell", opened[i])
			told = append(told, shell.Failure)
			if !shell.failed() {
				told = append(told, h.waitShell(t, shell.Shell).Failure)
			}
		}
		failures := 0
		for _, failure := range told {
			if failure.failed() {
				failures++
			}
			for _, line := range strings.Split(failure.Text, "\n") { // of errors that were joined
				if !readable(line) || len(failure.Text) > 16<<10 {
					t.Errorf("seed %d: a caller is told %q", seed, failure.Text)
				}
			}
		}
		if failures < each {
			t.Errorf("seed %d: %d callers were told of failures", seed, failures)
		}
	}
	var verdict Verdict
	h.call(t, "Verdict", struct{}{}, &verdict)
	t.Logf("%d lines, the longest has %d bytes", verdict.Lines, verdict.Longest)
	for _, bad := range verdict.Bad {
		t.Errorf("the host's log says %s", bad)
	}
	if verdict.Lines < 20 || verdict.Longest > 8<<10 {
		t.Errorf("the host's log has %d lines, and one of %d bytes", verdict.Lines, verdict.Longest)
	}
}
