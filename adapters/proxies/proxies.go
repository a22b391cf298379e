// Package proxies puts handlers beside the guest's API, each below a name of its own: the guest reaches
// the one that is attached as NAME at /NAME/…, until its task has its result.
package proxies

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/hexworker/metaservice/adapters/wire"
)

// errOver is why the context of a request ends that outlives its task.
var errOver = errors.New("the task has its result, and its proxies are gone")

// New makes the handler of both. A request for /NAME/… goes to that proxy with /NAME removed from its
// path, escapes kept, as http.StripPrefix does it; the proxy's ResponseWriter streams and hijacks as the
// server's own does. Everything else goes to the API: /NAME alone, and all requests once over is closed.
// Then the contexts of the proxies' requests end too, what waits for bytes of the guest gets none, and
// hijacked connections are closed, those as well whose handler has returned.
func New(api http.Handler, proxies map[string]http.Handler, over <-chan struct{}) http.Handler {
	if len(proxies) == 0 {
		return api
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		proxy, inner := find(proxies, r.URL)
		select {
		case <-over:
			proxy = nil
		default:
		}
		if proxy == nil {
			api.ServeHTTP(w, r)
			return
		}
		serve(proxy, w, r, inner, over)
	})
}

// find finds the proxy that a URL is for, and the URL as it knows it.
func find(proxies map[string]http.Handler, from *url.URL) (http.Handler, *url.URL) {
	rest, ok := strings.CutPrefix(from.Path, "/")
	if !ok {
		return nil, nil
	}
	name, _, ok := strings.Cut(rest, "/")
	if !ok || proxies[name] == nil {
		return nil, nil
	}
	prefix := "/" + name
	if from.RawPath != "" && !strings.HasPrefix(from.RawPath, prefix+"/") {
		return nil, nil // the name, or the slash after it, is escaped
	}
	inner := *from
	inner.Path = strings.TrimPrefix(from.Path, prefix)
	inner.RawPath = strings.TrimPrefix(from.RawPath, prefix)
	return proxies[name], &inner
}

// serve has a proxy answer, and ends what it does when it is over.
func serve(proxy http.Handler, w http.ResponseWriter, r *http.Request, inner *url.URL, over <-chan struct{}) {
	defer wire.Claim(r.Context())() // what the task does with its proxies is not the guest's tools' to wait for
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	var watch sync.WaitGroup
	defer watch.Wait() // or the deadline might meet the connection's next request
	returned := make(chan struct{})
	defer close(returned)
	watch.Go(func() {
		select {
		case <-over:
			cancel(errOver)
			// Who only reads or writes doesn't see the context; a writer without deadlines has none.
			long := time.Unix(1, 0) // past
			controller := http.NewResponseController(w)
			_ = controller.SetReadDeadline(long)
			_ = controller.SetWriteDeadline(long)
		case <-returned:
		}
	})
	r = r.WithContext(ctx)
	r.URL = inner
	proxy.ServeHTTP(writer{w, over, func() { cancel(errOver) }, func() func() { return wire.Claim(ctx) }}, r)
}
