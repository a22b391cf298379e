package domain

import (
	"errors"
	"fmt"
)

// TokenMode says whether a guest's requests must prove that they are its tools' (FeatureToken).
type TokenMode string

const (
	// TokenAuto, the default, demands a token where the machine can hand one over, and from the first
	// request on that shows it, other than a log: a guest whose tools know of none is served as ever.
	TokenAuto TokenMode = "auto"
	// TokenRequired demands it of every request. Where the machine can't hand it over, the first who asks
	// the host for it has it.
	TokenRequired TokenMode = "required"
	// TokenOff demands none.
	TokenOff TokenMode = "off"
)

// ErrInvalidTokenMode is a TokenMode that there isn't.
var ErrInvalidTokenMode = errors.New("invalid token mode")

// Check tells a mode that there isn't. The empty one is TokenAuto.
func (m TokenMode) Check() error {
	switch m {
	case "", TokenAuto, TokenRequired, TokenOff:
		return nil
	}
	return fmt.Errorf("%w: %s, it must be %s, %s or %s", ErrInvalidTokenMode, Quote(string(m)), TokenAuto, TokenRequired, TokenOff)
}

// Token is a secret with which a guest's tools prove themselves. The zero Token is none. It is behind a
// pointer, so that whoever prints what it is in, with whatever verb, shows nothing of it.
type Token struct{ text *string }

// maxToken bounds a token. Our host's have 43 bytes.
const maxToken = 512

// ErrInvalidToken is a text that no token can have. What it is isn't told.
var ErrInvalidToken = errors.New("invalid token")

// ParseToken takes a token's text, which must be fit for a header: RFC 6750, section 2.1, calls it b64token.
func ParseToken(text string) (Token, error) {
	if text == "" || len(text) > maxToken {
		return Token{}, fmt.Errorf("%w: it has %d bytes, it must have 1 to %d", ErrInvalidToken, len(text), maxToken)
	}
	end := len(text)
	for end > 1 && text[end-1] == '=' {
		end--
	}
	for i := range end {
		if !isTokenByte(text[i]) {
			return Token{}, fmt.Errorf("%w: byte %d is none of letters, digits and -._~+/", ErrInvalidToken, i)
		}
	}
	return Token{&text}, nil
}

func isTokenByte(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	switch c {
	case '-', '.', '_', '~', '+', '/':
		return true
	}
	return false
}

// IsZero tells whether there is none.
func (t Token) IsZero() bool { return t.text == nil }

// Reveal is the text: for whoever hands it over, and for the header that shows it.
func (t Token) Reveal() string {
	if t.text == nil {
		return ""
	}
	return *t.text
}

// String tells whether there is one, and no more.
func (t Token) String() string {
	if t.IsZero() {
		return "no token"
	}
	return "a token"
}

// Proof is what a request shows of a token.
type Proof int

// The proofs.
const (
	ProofNone  Proof = iota // no token
	ProofWrong              // something that isn't the token
	ProofRight
)

func (p Proof) String() string {
	switch p {
	case ProofNone:
		return "no token"
	case ProofWrong:
		return "a wrong token"
	}
	return "the token"
}

// What a host refuses a guest with whose tools it tells from the rest by a token.
var (
	// ErrUnauthorized is a request without the right token. Its text is constant: it must not tell what was
	// wrong.
	ErrUnauthorized = errors.New("this host serves its guest's tools alone: the request must show their token")
	// ErrTokenTaken is a token that is asked for again.
	ErrTokenTaken = errors.New("the token is handed out once, and somebody has it already")
	// ErrNoToken is a token asked for that this host hands out to nobody.
	ErrNoToken = errors.New("this host hands no token out")
)

// Access are the rules on which of a guest's requests are served. The zero Access, and that of TokenOff,
// serves all of them, whatever they show.
type Access struct {
	token    bool // there is one
	byWire   bool // the guest's tools ask the host for it
	demanded bool // every request must show it
	handing  bool // it is on its way over the wire
	taken    bool // it went over the wire
	proved   bool // the tools have shown it
}

// NewAccess makes the rules for a mode. handsOver tells whether the machine can hand the token over.
func NewAccess(mode TokenMode, handsOver bool) Access {
	switch {
	case mode == TokenRequired:
		return Access{token: true, byWire: !handsOver, demanded: true}
	case mode != TokenOff && handsOver:
		return Access{token: true}
	}
	return Access{}
}

// HasToken tells whether there is a token at all.
func (a *Access) HasToken() bool { return a.token }

// ByMachine tells whether it is the machine that hands the token over.
func (a *Access) ByMachine() bool { return a.token && !a.byWire }

// Proved tells whether the guest's tools have shown the token, on which it is demanded ever after.
func (a *Access) Proved() bool { return a.proved }

// Request takes a request, and tells whether it is served: nil or ErrUnauthorized. The right token is
// demanded ever after.
func (a *Access) Request(proof Proof) error {
	err := a.Log(proof)
	if a.token && proof == ProofRight {
		a.demanded, a.proved = true, true
	}
	return err
}

// Log is Request for a log body, which says nothing of the guest's tools: a program of root's that posts a line
// to the log finds the token where tools that run as another user don't, and these must not be locked out by it.
func (a *Access) Log(proof Proof) error {
	switch {
	case !a.token:
		return nil
	case proof == ProofRight:
		a.taken = a.byWire // the answer that it came with has arrived before whoever wrote it knows
		return nil
	case proof == ProofWrong || a.demanded:
		return ErrUnauthorized
	}
	return nil
}

// Hello is Request for a hello, which comes before a token can be asked for.
func (a *Access) Hello(proof Proof) error {
	if a.byWire && !a.taken && proof == ProofNone {
		return nil
	}
	return a.Request(proof)
}

// HandOut begins to hand the token out over the wire; HandedOut must follow. ErrNoToken where it isn't to
// be had so, ErrTokenTaken for a second time, ErrTooMany while it is on its way, ErrUnauthorized for a wrong
// one.
func (a *Access) HandOut(proof Proof) error {
	switch {
	case !a.byWire:
		return ErrNoToken
	case proof == ProofWrong:
		return ErrUnauthorized
	case a.taken:
		return ErrTokenTaken
	case a.handing:
		return ErrTooMany
	}
	a.handing = true
	return nil
}

// HandedOut ends a HandOut: written tells whether the token was written out.
func (a *Access) HandedOut(written bool) {
	a.handing = false
	a.taken = a.taken || written
}
