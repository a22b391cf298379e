package wire

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/hexworker/metaservice/domain"
)

// The header of a request that shows a token, and that of a refusal which asks for one: RFC 6750.
const (
	HeaderAuthorization = "Authorization"
	HeaderChallenge     = "WWW-Authenticate"
	Challenge           = `Bearer realm="metaservice"`

	bearer = "Bearer "
)

// ShowToken shows a token in a request's header; none is nothing.
func ShowToken(header http.Header, token domain.Token) {
	if !token.IsZero() {
		header.Set(HeaderAuthorization, bearer+token.Reveal())
	}
}

// ShownToken is what a request's header shows: empty is no token. What isn't said as ShowToken says it is
// never one.
func ShownToken(header http.Header) string {
	values := header[HeaderAuthorization]
	if len(values) == 0 {
		return ""
	}
	scheme, shown := values[0][:min(len(values[0]), len(bearer))], values[0][min(len(values[0]), len(bearer)):]
	if len(values) > 1 || shown == "" || !strings.EqualFold(scheme, bearer) {
		return notToken
	}
	return shown
}

// notToken is what no token is.
const notToken = "\x00"

// tokenAnswer is the body of the answer to whoever may have the token.
type tokenAnswer struct {
	Token string `json:"token"`
}

// EncodeToken is the body of the answer that hands a token out.
func EncodeToken(token domain.Token) []byte { return mustMarshal(tokenAnswer{token.Reveal()}) }

// DecodeToken is EncodeToken's inverse. Its errors don't show what it was given.
func DecodeToken(data []byte) (domain.Token, error) {
	var answer tokenAnswer
	if json.Unmarshal(data, &answer) != nil {
		return domain.Token{}, fmt.Errorf("%w: a token: it must be an object with the token", ErrInvalidBody)
	}
	token, err := domain.ParseToken(answer.Token)
	if err != nil {
		return domain.Token{}, fmt.Errorf("%w: %w", ErrInvalidBody, err)
	}
	return token, nil
}
