package main

import (
	"bytes"
	"errors"
	"io"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestOutletIsPatientUntilTheRunIsToEnd(t *testing.T) {
	for name, test := range map[string]struct {
		end  func(*interrupts, *outlet)
		took time.Duration
	}{
		"a signal":         {func(i *interrupts, _ *outlet) { i.add(syscall.SIGINT) }, time.Hour + hurryPatience},
		"a time-out":       {func(_ *interrupts, o *outlet) { o.hurry(); o.hurry() }, time.Hour + hurryPatience},
		"two":              {func(i *interrupts, _ *outlet) { i.add(syscall.SIGINT); i.add(syscall.SIGINT) }, time.Hour},
		"the task's end":   {func(_ *interrupts, o *outlet) { o.giveUp(); o.giveUp() }, time.Hour},
		"all, in disorder": {func(i *interrupts, o *outlet) { o.giveUp(); i.add(syscall.SIGTERM) }, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reader, writer := io.Pipe()
				signals := newInterrupts()
				o := newOutlet(writer, signals)
				time.AfterFunc(time.Hour, func() { test.end(signals, o) })
				begun := time.Now()
				if _, err := o.Write([]byte("x")); !errors.Is(err, errUnread) {
					t.Errorf("the error is %v", err)
				}
				if took := time.Since(begun); took != test.took {
					t.Errorf("it took %s, not %s", took, test.took)
				}
				if _, err := o.Write([]byte("y")); !errors.Is(err, errUnread) || time.Since(begun) != test.took {
					t.Errorf("another write: %v after %s", err, time.Since(begun))
				}
				reader.Close()
			})
		})
	}
}

func TestOutletPassesOn(t *testing.T) {
	var to bytes.Buffer
	signals := newInterrupts()
	o := newOutlet(&to, signals)
	for _, text := range []string{"a long one, ", "short, ", "and one after a signal"} {
		if n, err := o.Write([]byte(text)); n != len(text) || err != nil {
			t.Errorf("%q: %d, %v", text, n, err)
		}
		signals.add(syscall.SIGINT)
		if signals.came() != syscall.SIGINT {
			t.Error("the signal is forgotten")
		}
		if isClosed(signals.second) {
			break
		}
	}
	if to.String() != "a long one, short, " {
		t.Errorf("it passed on %q", to.String())
	}
	if _, err := newOutlet(&pipe{}, newInterrupts()).Write([]byte("x")); !errors.Is(err, errClosed) {
		t.Errorf("the writer's own error became %v", err)
	}
}
