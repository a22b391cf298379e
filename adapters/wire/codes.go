package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/hexworker/metaservice/domain"
)

// statuses is the one table of codes and their statuses.
var statuses = map[domain.Code]int{
	domain.CodeMethodNotAllowed:   http.StatusMethodNotAllowed,
	domain.CodeNoSuchEndPoint:     http.StatusNotFound,
	domain.CodeInternalError:      http.StatusInternalServerError,
	domain.CodeResourceConflict:   http.StatusConflict,
	domain.CodeUnknownActionID:    http.StatusBadRequest,
	domain.CodeInvalidPayload:     http.StatusBadRequest,
	domain.CodeUnauthorized:       http.StatusUnauthorized,
	domain.CodeForbidden:          http.StatusForbidden,
	domain.CodePayloadTooLarge:    http.StatusRequestEntityTooLarge,
	domain.CodeMisdirectedRequest: http.StatusMisdirectedRequest,
	domain.CodeTooManyRequests:    http.StatusServiceUnavailable,
}

// Status is a code's HTTP status.
func Status(code domain.Code) int {
	if status, ok := statuses[code]; ok {
		return status
	}
	return http.StatusInternalServerError
}

// refusals is the one table from the app's errors to the codes that a guest gets to see. The first
// that matches counts.
var refusals = []struct {
	err  error
	code domain.Code
}{
	{domain.ErrUnknownAction, domain.CodeUnknownActionID},
	{domain.ErrConflict, domain.CodeResourceConflict},
	{domain.ErrStorage, domain.CodeInternalError},
	{domain.ErrLog, domain.CodeInternalError},
	{domain.ErrTooMany, domain.CodeTooManyRequests},
	{domain.ErrInvalidReply, domain.CodeInvalidPayload},
	{domain.ErrBrokenReply, domain.CodeInvalidPayload},
	{domain.ErrSlowReply, domain.CodeInvalidPayload},
	{domain.ErrInvalidReport, domain.CodeInvalidPayload},
	{domain.ErrInvalidHello, domain.CodeInvalidPayload},
	{domain.ErrUnauthorized, domain.CodeUnauthorized},
	{domain.ErrTokenTaken, domain.CodeResourceConflict},
	{domain.ErrNoToken, domain.CodeNoSuchEndPoint},
}

// Refusal turns an error of the app into what the guest is told. What is the host's own business
// (its paths, its disk) stays with the host: the guest gets the class of it.
func Refusal(err error) *domain.Error {
	if refusal, ok := errors.AsType[*domain.Error](err); ok {
		return refusal
	}
	if limit, ok := errors.AsType[*domain.LimitError](err); ok {
		return &domain.Error{Code: domain.CodePayloadTooLarge, Message: limit.Error()}
	}
	for _, r := range refusals {
		if !errors.Is(err, r.err) {
			continue
		}
		message := err.Error()
		if r.code == domain.CodeInternalError || r.err == domain.ErrBrokenReply { // a connection's error names the host's socket
			message = r.err.Error()
		}
		return &domain.Error{Code: r.code, Message: domain.Cut(message)}
	}
	return &domain.Error{Code: domain.CodeInternalError, Message: "the host failed"}
}

// EncodeError is the body of a refusal.
func EncodeError(refusal *domain.Error) []byte { return mustMarshal(refusal) }

// DecodeError reads a refusal off an answer with this status. An answer that isn't one, as from a
// proxy or an other server, is described by what it is.
func DecodeError(status int, body []byte) error {
	var refusal domain.Error
	if err := json.Unmarshal(body, &refusal); err != nil || refusal.Code == "" {
		return fmt.Errorf("the host answered %d %s, with a body that is no refusal of a metaservice: %s",
			status, http.StatusText(status), domain.Quote(string(body)))
	}
	return &refusal
}

// mustMarshal is for values of our own types, which have nothing that JSON can't hold.
func mustMarshal(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("wire: %T can't be JSON: %v", v, err))
	}
	return data
}
