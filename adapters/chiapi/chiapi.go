// Package chiapi serves a ports.GuestAPI over HTTP, with chi as its router: the endpoints of the
// protocol, their verbs, and a refusal in JSON for everything else.
//
// Handlers translate and no more: they decode, call, and respond. What a guest sends is bounded here
// where it is small (a hello, a result), and by the app where it is large (transfers, logs).
package chiapi

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/adapters/wsshell"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

const (
	// smallBody is how long a small body may take, whole, and one that nobody wants.
	smallBody = 30 * time.Second
	// refusedBody is how long the answer to a request that is refused waits for the rest of its body.
	refusedBody = time.Second
	// answerWrite is how long it may take to write an answer out, which is small. A guest that never reads one
	// would hold its connection for ever, and in the end all that it may have. Before the first byte goes out
	// net/http reads what is left of a small body.
	answerWrite = smallBody + 10*time.Second
)

// New makes the handler. Its errors of its own go to logger.
func New(api ports.GuestAPI, logger *slog.Logger) http.Handler {
	return &guard{handler: &handler{api: api, log: logger}}
}

// router knows the endpoints. It is made once for all guests: it takes more memory than all else that a guest
// has here. Which one's handler is meant is in a request's entry.
var router = sync.OnceValue(func() chi.Router {
	r := chi.NewRouter()
	r.NotFound(on((*handler).noSuchEndPoint))
	r.MethodNotAllowed(methodNotAllowed(r))
	r.With(admit(ports.GuestAPI.AdmitHello)).Post(wire.PathHello, on((*handler).hello))
	r.Post(wire.PathToken, bodiless(on((*handler).handToken))) // which has rules of its own
	r.With(admit(ports.GuestAPI.AdmitLog)).Post(wire.PathLog, on((*handler).appendLog))
	r.Group(func(r chi.Router) {
		r.Use(admit(ports.GuestAPI.Admit))
		r.Get(wire.PathExecute, bodiless(on((*handler).execute)))
		r.Get(wire.PathPoll, bodiless(on((*handler).poll)))
		r.Get(wire.PathPing, bodiless(on((*handler).ping)))
		r.Put(wire.PathSuccess, bodiless(on(resolve(true))))
		r.Put(wire.PathFailed, bodiless(on(resolve(false))))
		r.Post(wire.PathReply, on((*handler).reply))
		r.Get(wire.PathReply, on((*handler).shell))
	})
	return r
})

// on calls f of the handler that a request is for.
func on(f func(*handler, http.ResponseWriter, *http.Request)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { f(entryOf(r).handler, w, r) }
}

type handler struct {
	api     ports.GuestAPI
	log     *slog.Logger
	results repeated // that were not taken
	large   repeated // bodies that were too large
	logs    repeated // log bodies that were too many
}

func (h *handler) noSuchEndPoint(w http.ResponseWriter, r *http.Request) {
	h.refuse(w, r, &domain.Error{
		Code:    domain.CodeNoSuchEndPoint,
		Message: "there is no such end point: " + domain.Cut(r.URL.Path),
	})
}

// methodNotAllowed sets Allow, which RFC 9110, section 15.5.6, demands and chi leaves to a handler of
// one's own.
func methodNotAllowed(routes chi.Routes) http.HandlerFunc {
	methods := []string{http.MethodGet, http.MethodPost, http.MethodPut}
	return on(func(h *handler, w http.ResponseWriter, r *http.Request) {
		path := cmp.Or(r.URL.RawPath, r.URL.Path) // as chi does
		allowed := slices.DeleteFunc(slices.Clone(methods), func(method string) bool {
			return !routes.Match(chi.NewRouteContext(), method, path)
		})
		if len(allowed) == 0 { // a method that chi doesn't know, of a path that nobody does
			h.noSuchEndPoint(w, r)
			return
		}
		h.refuseMethod(w, r, allowed...)
	})
}

func (h *handler) ping(http.ResponseWriter, *http.Request) {}

func (h *handler) execute(w http.ResponseWriter, r *http.Request) {
	execute, err := h.api.Execute(r.Context())
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	respond(w, http.StatusOK, wire.EncodeExecute(execute))
}

var errHungUp = errors.New("the guest has hung up")

// pollAwake is how long a poll waits with its request's goroutines before its connection is detached: an action
// that comes at once is not to wait for that.
const pollAwake = 250 * time.Millisecond

func (h *handler) poll(w http.ResponseWriter, r *http.Request) {
	poll := h.api.Park()
	ready := make(chan struct{}, 1)
	poll.Notify(func() { ready <- struct{}{} })
	awake := time.NewTimer(pollAwake)
	defer awake.Stop()
	for waits := true; waits; {
		select {
		case <-ready:
			waits = false
		case <-r.Context().Done():
			waits = false
		case <-awake.C:
			if r.ContentLength != 0 { // what comes next is no request
				continue
			}
			if conn, err := wire.Detach(w, r); err == nil {
				rest := newRestingPoll(poll, conn, entryOf(r))
				go rest.serve() // ends with the poll; the server waits for it
				return
			}
		}
	}
	if r.Context().Err() != nil { // it hung up, maybe just as the action came
		poll.Leave()
		panic(http.ErrAbortHandler)
	}
	err := poll.Deliver(func(action domain.Action) error {
		if wire.HungUp(r.Context()) { // the kernel would take the answer, and drop it
			return errHungUp
		}
		err := respond(w, http.StatusOK, wire.EncodeAction(action))
		if err == nil && action.Kind() != domain.KindNone {
			entryOf(r).wanted(r.Context())
		}
		return err
	})
	if err != nil {
		// The guest hung up, or can't be written to. It must not take what has left us for an answer.
		panic(http.ErrAbortHandler)
	}
}

func (h *handler) appendLog(w http.ResponseWriter, r *http.Request) {
	if h.restLog(w, r) {
		return
	}
	err := h.api.Log(r.Context(), claimedReader{r.Body, func() { entryOf(r).claim(r.Context()) }})
	if err != nil && !h.refuseLog(w, err) { // the body broke off: there is nobody to answer
		panic(http.ErrAbortHandler)
	}
}

// refuseLog answers a log body that was not taken, if there is somebody to answer.
func (h *handler) refuseLog(w http.ResponseWriter, err error) bool {
	switch {
	case errors.Is(err, domain.ErrTooMany):
		if time, told := h.logs.again(); told {
			h.log.Warn("a log body was refused for now", "why", err, "time", time)
		}
	case errors.Is(err, domain.ErrLog), errors.Is(err, domain.ErrConflict):
	default:
		return false
	}
	h.refuseRest(w, wire.PathLog, true, err)
	return true
}

// resolve takes the result. A guest that never said hello sends no body that would count.
func resolve(success bool) func(*handler, http.ResponseWriter, *http.Request) {
	return func(h *handler, w http.ResponseWriter, r *http.Request) {
		result := domain.Result{Success: success}
		if h.api.Features().Has(domain.FeatureResult) && wire.IsJSON(r.Header.Get("Content-Type")) {
			report, err := decodeSmall(w, r, wire.MaxResult, "MaxResult", wire.DecodeReport)
			if _, tooLarge := errors.AsType[*domain.LimitError](err); tooLarge || errors.Is(err, domain.ErrBrokenReply) {
				// 4xx is final, and would leave the task without a result for a limit on size or time:
				// RFC 9110 has no better word for "not like this" than to hang up.
				if time, told := h.results.again(); told {
					h.log.Warn("a result was not taken", "error", err, "time", time)
				}
				panic(http.ErrAbortHandler)
			}
			if err != nil {
				h.refuse(w, r, err)
				return
			}
			result.Report = &report
		}
		if err := h.api.Resolve(r.Context(), result); err != nil {
			h.refuse(w, r, err)
		}
	}
}

func (h *handler) hello(w http.ResponseWriter, r *http.Request) {
	hello, err := decodeSmall(w, r, wire.MaxHello, "MaxHello", wire.DecodeHello)
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	features, err := h.api.Hello(r.Context(), hello)
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	respond(w, http.StatusOK, wire.EncodeFeatures(features))
}

// decodeSmall reads a small body whole, within a limit and a time, and decodes it.
func decodeSmall[T any](w http.ResponseWriter, r *http.Request, limit int64, name string, decode func([]byte) (T, error)) (T, error) {
	var none T
	controller := http.NewResponseController(w)
	if err := controller.SetReadDeadline(time.Now().Add(smallBody)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return none, err
	}
	data, err := wire.ReadAll(r.Body, limit, name)
	if _, tooLarge := errors.AsType[*domain.LimitError](err); tooLarge {
		return none, err
	}
	if err != nil {
		return none, fmt.Errorf("%w: %w", domain.ErrBrokenReply, err)
	}
	if err := controller.SetReadDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return none, err
	}
	return decode(data)
}

// reply takes the answer to an action. What is wrong with its method or its id doesn't use it up.
func (h *handler) reply(w http.ResponseWriter, r *http.Request) {
	id := domain.ActionID(r.URL.Query().Get(wire.QueryID))
	action, err := h.api.Pending(id)
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	body := claimed{requestBody{r.Body, http.NewResponseController(w)}, wantedBy(r)}
	switch action.Kind() {
	case domain.KindGetArtifact:
		h.artifact(w, r, id, body)
		return
	case domain.KindListFolder:
		if contentType := r.Header.Get("Content-Type"); !wire.IsJSON(contentType) {
			err = h.api.Refuse(r.Context(), id, wrongType(contentType, wire.TypeJSON))
			break
		}
		err = h.api.Folder(r.Context(), id, ports.FolderReply{
			Body: body, Size: r.ContentLength, Decode: wire.DecodeFiles,
		})
	case domain.KindGetFolder:
		failure, contentType := r.Header.Get(wire.HeaderError), r.Header.Get("Content-Type")
		if failure == "" && !wire.IsTar(contentType) {
			err = h.api.Refuse(r.Context(), id, wrongType(contentType, wire.TypeTar))
			break
		}
		err = h.api.Archive(r.Context(), id, ports.ArchiveReply{
			Body: body, Error: failure, Decode: wire.DecodeArchive,
		})
	case domain.KindKillProcess:
		bodiless(func(_ http.ResponseWriter, r *http.Request) { err = h.api.Killed(r.Context(), id) })(w, r)
	default: // a shell's reply is a websocket handshake
		h.refuseMethod(w, r, http.MethodGet)
		return
	}
	h.taken(w, r, err)
}

// taken answers a reply of which the app has made what it could.
func (h *handler) taken(w http.ResponseWriter, r *http.Request, err error) {
	if !errors.Is(err, domain.ErrUnknownAction) {
		entryOf(r).wanted(r.Context()) // also where the app had no need of its body
	}
	if err != nil {
		h.refuse(w, r, err)
	}
}

func wrongType(contentType, want string) error {
	return fmt.Errorf("%w: the content type is %s, it must be %s", domain.ErrInvalidReply, domain.Quote(contentType), want)
}

// shell takes the websocket that answers an exec-shell. A handshake that can't be one doesn't use the id
// up. It returns when the shell is over.
func (h *handler) shell(w http.ResponseWriter, r *http.Request) {
	id := domain.ActionID(r.URL.Query().Get(wire.QueryID))
	action, err := h.api.Pending(id)
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	if action.Kind() != domain.KindExecShell {
		h.refuseMethod(w, r, http.MethodPost)
		return
	}
	if err := wsshell.CheckHandshake(r); err != nil {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket") // RFC 9110, section 7.8
		h.refuse(w, r, fmt.Errorf("%w: %w", domain.ErrInvalidReply, err))
		return
	}
	answered := false
	err = h.api.Shell(r.Context(), id, func(terms ports.ShellTerms) (ports.HostShell, error) {
		answered = true
		entryOf(r).wanted(r.Context())
		return wsshell.Accept(w, r, h.api.Features(), terms)
	})
	if err != nil && !answered {
		h.refuse(w, r, err)
	}
}

// requestBody is a request's body with the read deadline of its connection.
type requestBody struct {
	io.Reader
	controller *http.ResponseController
}

func (b requestBody) SetReadDeadline(t time.Time) error { return b.controller.SetReadDeadline(t) }

var _ ports.Body = requestBody{}
