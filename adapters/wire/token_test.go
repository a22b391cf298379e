package wire_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
)

func token(t *testing.T, text string) domain.Token {
	t.Helper()
	token, err := domain.ParseToken(text)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestATokenIsShownAndSeen(t *testing.T) {
	header := make(http.Header)
	wire.ShowToken(header, domain.Token{})
	if len(header) != 0 || wire.ShownToken(header) != "" {
		t.Errorf("no token is shown as %v", header)
	}
	wire.ShowToken(header, token(t, "abc.def=="))
	if got := header.Get("Authorization"); got != "Bearer abc.def==" {
		t.Errorf("a token is shown as %q", got)
	}
	if got := wire.ShownToken(header); got != "abc.def==" {
		t.Errorf("it is seen as %q", got)
	}
	for _, values := range [][]string{
		{"abc"}, {"Basic abc"}, {"Bearer"}, {"Bearer "}, {""}, {"Bearerabc"}, {"Bearer abc", "Bearer abc"}, {"", ""},
	} {
		shown := wire.ShownToken(http.Header{"Authorization": values})
		if _, err := domain.ParseToken(shown); shown == "" || err == nil {
			t.Errorf("%q is seen as %q, which is no token or none", values, shown)
		}
	}
}

func TestTheAnswerWithAToken(t *testing.T) {
	body := wire.EncodeToken(token(t, "abc"))
	if string(body) != `{"token":"abc"}` {
		t.Errorf("it is %s", body)
	}
	if got, err := wire.DecodeToken(body); err != nil || got.Reveal() != "abc" {
		t.Errorf("it is read as %q, %v", got.Reveal(), err)
	}
	for _, text := range []string{``, `{}`, `null`, `{"token":7}`, `{"token":"s3cr3t x"}`, `"s3cr3t"`, `{"token":"s3cr3t`} {
		_, err := wire.DecodeToken([]byte(text))
		if !errors.Is(err, wire.ErrInvalidBody) || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%s is read with %v", text, err)
		}
	}
}
