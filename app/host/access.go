package host

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/hexworker/metaservice/domain"
)

// tokenBytes is how much chance is in a token: 256 bits.
const tokenBytes = 32

// newToken makes a token that nobody can guess.
func newToken() domain.Token {
	var secret [tokenBytes]byte
	_, _ = rand.Read(secret[:]) // it never fails
	token, err := domain.ParseToken(base64.RawURLEncoding.EncodeToString(secret[:]))
	if err != nil {
		panic(err) // base64 is fit for a header
	}
	return token
}

// proofOf compares what a request shows with the token, in a time that tells nothing but their lengths.
func proofOf(token domain.Token, shown string) domain.Proof {
	right := token.Reveal()
	switch {
	case shown == "":
		return domain.ProofNone
	case len(shown) != len(right), subtle.ConstantTimeCompare([]byte(shown), []byte(right)) == 0:
		return domain.ProofWrong
	}
	return domain.ProofRight
}

// machineToken is what the guest's machine hands over; none where it doesn't.
func (s *Service) machineToken() domain.Token {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.access.ByMachine() {
		return s.token
	}
	return domain.Token{}
}

// Admit implements ports.GuestAPI.
func (s *Service) Admit(shown string) error { return s.admit(shown, s.access.Request) }

// AdmitLog implements ports.GuestAPI.
func (s *Service) AdmitLog(shown string) error { return s.admit(shown, s.access.Log) }

// AdmitHello implements ports.GuestAPI.
func (s *Service) AdmitHello(shown string) error { return s.admit(shown, s.access.Hello) }

// admit doesn't count as a request of the guest before it is known to be one.
func (s *Service) admit(shown string, rule func(domain.Proof) error) error {
	if s.token.IsZero() {
		return nil
	}
	proof := proofOf(s.token, shown)
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.access.Proved()
	err := rule(proof)
	if err != nil {
		s.refused(proof)
		return err
	}
	if !before && s.access.Proved() {
		s.log.Info("the guest's tools have shown their token: nobody else in the guest is served from now on")
		s.evictPolls() // none of them can be the tools'
	}
	return nil
}

// refused counts a request without the right token, and tells of it; s.mu must be held.
func (s *Service) refused(proof domain.Proof) {
	if s.strangers.again() {
		s.log.Warn("a request was refused: it does not show the token of the guest's tools",
			"shows", proof.String(), "time", s.strangers)
	}
}

// HandToken implements ports.GuestAPI.
func (s *Service) HandToken(_ context.Context, shown string, deliver func(domain.Token) error) error {
	if err := s.beginHandOut(shown); err != nil {
		return err
	}
	defer s.request(false)()
	err := deliver(s.token)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.access.HandedOut(err == nil)
	return err
}

func (s *Service) beginHandOut(shown string) error {
	proof := proofOf(s.token, shown)
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.access.HandOut(proof)
	switch {
	case errors.Is(err, domain.ErrUnauthorized):
		s.refused(proof)
	case errors.Is(err, domain.ErrTokenTaken) && s.askers.again():
		s.log.Warn("the guest's token was asked for again, and refused: whoever has it may not be the guest's tools, "+
			"or these were started anew and have lost it", "time", s.askers)
	}
	return err
}

// tellUnproved tells once that the task can play its guest's tools; s.mu must be held.
func (s *Service) tellUnproved() {
	if s.access.ByMachine() && !s.access.Proved() && !s.executed {
		s.log.Info("the guest's tools show no token: whatever runs in the guest is served as they are",
			"knowTokens", s.features.Has(domain.FeatureToken))
	}
}

// whyUncalled is what may be behind a guest that is said never to have called; nil is nothing known.
func (s *Service) whyUncalled() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.strangers == 0 {
		return nil
	}
	return fmt.Errorf("%d requests came without the token that this host demands: do its guest-tools know of it, and can they read it?", s.strangers)
}
