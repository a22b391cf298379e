//go:build linux

package threats

import (
	"cmp"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/adapters/wire"
)

func init() { register("headers", headers) }

// endPoints are all of them, with the method of each.
var endPoints = []struct{ method, path string }{
	{http.MethodGet, wire.PathExecute},
	{http.MethodGet, wire.PathPoll},
	{http.MethodGet, wire.PathPing},
	{http.MethodPost, wire.PathLog},
	{http.MethodPut, wire.PathSuccess},
	{http.MethodPut, wire.PathFailed},
	{http.MethodPost, wire.PathReply + "?id=ID"},
	{http.MethodGet, wire.PathReply + "?id=ID"},
	{http.MethodPost, wire.PathHello},
	{http.MethodPost, wire.PathToken},
}

// headerCases are heads of requests, by what is wrong with them: the status with which all of them are refused; 0
// is that they aren't.
var headerCases = map[string]struct {
	host, header string
	want         int
}{
	"an address":                   {host: "169.254.169.254"},
	"an address and a port":        {host: "169.254.169.254:80"},
	"another address":              {host: "10.0.2.2"},
	"an address of IPv6":           {host: "[fe80::1]:80"},
	"a name of the guest's own":    {host: "host"},
	"localhost":                    {host: "localhost:8080"},
	"anybody's name":               {host: "evil.example", want: http.StatusMisdirectedRequest},
	"anybody's name and a port":    {host: "evil.example:80", want: http.StatusMisdirectedRequest},
	"anybody's name with a dot":    {host: "evil.example.", want: http.StatusMisdirectedRequest},
	"anybody's name of an address": {host: "169.254.169.254.evil.example", want: http.StatusMisdirectedRequest},
	"the metadata of a cloud":      {host: "metadata.google.internal", want: http.StatusMisdirectedRequest},
	"an address in octal and more": {host: "0251.254.169.254", want: http.StatusMisdirectedRequest},
	"no name":                      {host: "", want: http.StatusMisdirectedRequest},
	"a dot":                        {host: ".", want: http.StatusMisdirectedRequest},
	"a target that says otherwise": {host: "169.254.169.254", header: "absolute", want: http.StatusMisdirectedRequest},
	"two names":                    {host: "169.254.169.254\r\nHost: evil.example", want: http.StatusBadRequest},
	"a client before a proxy":      {host: "169.254.169.254", header: "X-Forwarded-For: 192.0.2.1", want: http.StatusForbidden},
	"a client of no address":       {host: "169.254.169.254", header: "x-forwarded-for:", want: http.StatusForbidden},
	"a proxy of RFC 7239":          {host: "169.254.169.254", header: "Forwarded: for=192.0.2.1", want: http.StatusForbidden},
	"a proxy that says so":         {host: "169.254.169.254", header: "Via: 1.1 squid", want: http.StatusForbidden},
	"a host before a proxy":        {host: "169.254.169.254", header: "X-Forwarded-Host: evil.example", want: http.StatusForbidden},
	"a page":                       {host: "169.254.169.254", header: "Origin: http://evil.example", want: http.StatusForbidden},
	"a page of no origin":          {host: "169.254.169.254", header: "Origin: null", want: http.StatusForbidden},
	"a page of this host":          {host: "169.254.169.254", header: "Origin: http://169.254.169.254", want: http.StatusForbidden},
	"a page in lower case":         {host: "169.254.169.254", header: "oRIGIN: http://evil.example", want: http.StatusForbidden},
	"an empty origin":              {host: "169.254.169.254", header: "Origin:", want: http.StatusForbidden},
}

// headers makes a request of each case to each end point, and counts the answers by case and status. A
// second argument names the action that a reply answers.
func headers(r *raid) error {
	action, err := r.poll()
	if err != nil {
		return err
	}
	l := &line{r: r}
	defer l.close()
	for name, c := range headerCases {
		for _, at := range endPoints {
			if c.want == 0 && at.path != wire.PathPing {
				continue // it is served, and some of them but once
			}
			target := strings.Replace(at.path, "ID", action.ID, 1)
			head := at.method + " " + target + " HTTP/1.1\r\nHost: " + c.host + "\r\n"
			switch {
			case c.header == "absolute":
				head = at.method + " http://evil.example" + target + " HTTP/1.1\r\nHost: " + c.host + "\r\n"
			case c.header != "":
				head += c.header + "\r\n"
			}
			if at.method == http.MethodGet && strings.HasPrefix(at.path, wire.PathReply) {
				_, upgrade, _ := strings.Cut(upgrade(action.ID), "Connection: ")
				head += "Connection: " + strings.TrimSuffix(upgrade, "\r\n")
			} else if at.method != http.MethodGet {
				head += "Content-Length: 0\r\n"
			}
			a, err := l.ask(head + "\r\n")
			if err != nil {
				return fmt.Errorf("%s at %s %s: %w", name, at.method, at.path, err)
			}
			r.count("asked", 1)
			if want := cmp.Or(c.want, http.StatusOK); a.status != want || strings.Contains(string(a.body), "hunter2") {
				r.text(name+" at "+at.method+" "+at.path, fmt.Sprintf("%d %s", a.status, a.body))
			}
		}
	}
	a, err := r.ask([]byte(reply(action.ID) + sized(4) + "mine"))
	r.count("the guest's own reply", int64(a.status))
	return err
}

// Threat 30. A page in a browser of the guest's, or a proxy that the task can have ask for it, is none of the
// guest's tools, and a name that somebody makes lead to the host isn't its own: each end point refuses them, and
// nothing is used up.
func TestThreat30Headers(t *testing.T) {
	t.Parallel()
	h := startHost(t, HostSpec{Limits: metaservice.Limits{Requests: 1e6, RequestBurst: 1e6, Hold: time.Second / 10, Tries: 1}})
	artifact := h.artifact(t, "/file")
	tally := attack(t, h, "headers", nil).wait(t)
	for what, got := range tally.Texts {
		t.Errorf("%s got %s", what, got)
	}
	wrong := 0
	for _, c := range headerCases {
		if c.want != 0 {
			wrong++
		}
	}
	if want := wrong*len(endPoints) + len(headerCases) - wrong; tally.Counts["asked"] != int64(want) {
		t.Errorf("%d requests, and not %d", tally.Counts["asked"], want)
	}
	if got := within(t, time.Minute, "the caller", artifact); string(got.Begin) != "mine" || tally.Counts["the guest's own reply"] != http.StatusOK {
		t.Errorf("the guest's own reply got %d, the caller %q, %q", tally.Counts["the guest's own reply"], got.Begin, got.Text)
	}
	var ended Ended
	h.call(t, "Outcome", Ask{Within: time.Millisecond}, &ended)
	if !ended.failed() {
		t.Errorf("the task has an outcome: %+v", ended)
	}
}
