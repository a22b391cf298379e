package domain

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Stream is one of a shell's three.
type Stream uint8

// The streams, by their numbers on the wire.
const (
	Stdin Stream = iota
	Stdout
	Stderr
)

// Streams is how many there are.
const Streams = 3

// String is the stream's name.
func (s Stream) String() string {
	switch s {
	case Stdin:
		return "stdin"
	case Stdout:
		return "stdout"
	case Stderr:
		return "stderr"
	}
	return fmt.Sprintf("stream %d", uint8(s))
}

// FrameType is the first byte of a shell's message.
type FrameType uint8

// The types of messages, by their numbers on the wire. There is no type 2.
const (
	FrameData   FrameType = 0 // bytes of a stream; none are its end
	FrameAck    FrameType = 1 // credit for a stream's sender
	FrameSize   FrameType = 3 // the terminal's size
	FrameAbort  FrameType = 4 // end the shell
	FrameExit   FrameType = 5 // how it ended
	FrameReport FrameType = 6 // the same in full, in JSON, just before Exit; of FeatureShell2
)

// Limits of the shell protocol, in bytes.
const (
	ShellBlock   = 16 << 10  // of data in one message
	ShellMessage = 20 << 10  // of a message
	ShellWindow  = 64 << 10  // in flight in a stream, until its receiver grants more
	ShellAhead   = 1 << 20   // the most that is granted to a sender of version 1
	Shell2Block  = 128 << 10 // of data in one message, with FeatureShell2
	Shell2Window = 4 << 20   // in flight in a stream at most, whatever its receiver grants

	// Shell2Message is a message's limit with FeatureShell2.
	Shell2Message = Shell2Block + 4<<10
)

// DataHead is how many bytes of a message stand before a stream's own.
const DataHead = 2

// ErrInvalidFrame is a message of a shell that can't be: the connection is of no use any more.
var ErrInvalidFrame = errors.New("invalid shell message")

// Frame is one message of a shell. Only the fields of its type are set.
type Frame struct {
	Type          FrameType
	Stream        Stream // Data, Ack
	Bytes         []byte // Data: not copied; Report: JSON
	Credit        uint32 // Ack
	Columns, Rows uint16 // Size
	Success       bool   // Exit
}

// Known tells whether this version knows the type. A message of another is passed over.
func (f Frame) Known() bool {
	switch f.Type {
	case FrameData, FrameAck, FrameSize, FrameAbort, FrameExit, FrameReport:
		return true
	}
	return false
}

// ParseFrame takes a message apart, and copies nothing of it. One of a type that it doesn't know has its
// type alone. ErrInvalidFrame for one that is empty, has a length that its type can't have, or names a
// stream that there isn't.
func ParseFrame(message []byte) (Frame, error) {
	if len(message) == 0 {
		return Frame{}, fmt.Errorf("%w: it is empty", ErrInvalidFrame)
	}
	f := Frame{Type: FrameType(message[0])}
	data := message[1:]
	switch f.Type {
	case FrameData:
		if len(data) < 1 {
			return Frame{}, wrongLength(message)
		}
		f.Stream, f.Bytes = Stream(data[0]), data[1:]
	case FrameAck:
		if len(data) != 5 {
			return Frame{}, wrongLength(message)
		}
		f.Stream, f.Credit = Stream(data[0]), binary.BigEndian.Uint32(data[1:])
	case FrameSize:
		if len(data) != 4 {
			return Frame{}, wrongLength(message)
		}
		f.Columns, f.Rows = binary.BigEndian.Uint16(data), binary.BigEndian.Uint16(data[2:])
	case FrameAbort:
		if len(data) != 0 {
			return Frame{}, wrongLength(message)
		}
	case FrameExit:
		if len(data) != 1 || data[0] > 1 {
			return Frame{}, wrongLength(message)
		}
		f.Success = data[0] == 0
	case FrameReport:
		f.Bytes = data
	}
	if f.Stream >= Streams {
		return Frame{}, fmt.Errorf("%w: there is no %s", ErrInvalidFrame, f.Stream)
	}
	return f, nil
}

func wrongLength(message []byte) error {
	return fmt.Errorf("%w: %d bytes of type %d", ErrInvalidFrame, len(message), message[0])
}

// Append is ParseFrame's inverse: it appends the message to b.
func (f Frame) Append(b []byte) []byte {
	b = append(b, byte(f.Type))
	switch f.Type {
	case FrameData:
		b = append(b, byte(f.Stream))
		b = append(b, f.Bytes...)
	case FrameAck:
		b = append(b, byte(f.Stream))
		b = binary.BigEndian.AppendUint32(b, f.Credit)
	case FrameSize:
		b = binary.BigEndian.AppendUint16(b, f.Columns)
		b = binary.BigEndian.AppendUint16(b, f.Rows)
	case FrameExit:
		failed := byte(1)
		if f.Success {
			failed = 0
		}
		b = append(b, failed)
	case FrameReport:
		b = append(b, f.Bytes...)
	}
	return b
}
