// Package wsshell runs a shell's streams over a websocket: the host's end, which is a ports.HostShell, and
// the guest's, a ports.GuestShell. Both speak version 1 of the shell protocol, and domain.FeatureShell2
// where host and guest agreed on it. docs/protocol.md tells what goes over the wire.
//
// The websocket library is frozen, with faults of its own, and it hands each frame to another goroutine four
// times, which wakes other cores up and takes longer than all the rest. So frameConn, below it, has the plain
// case: a message in one frame, either way, and pings and pongs. The library has the handshake, the close
// frames, messages in several frames, and all that mustn't be. What it gets wrong is met in one place each:
//
//   - It ends the connection when a context does, and when a control frame can't be written within 5 s. It
//     gets no context that ends, and its writes don't fail: frameConn notes a failure, and lets what has been
//     received be read to its end.
//   - It writes on after its close frame, and answers a close frame with a second one: frameConn drops both.
//   - Its Close waits without limit for a hostile peer: nobody calls it.
//   - It takes a message for whole whose peer died between two of its frames: frameConn counts those that are.
//   - It answers pings on the goroutine that reads, without end, and takes any guessed pong for an answer:
//     frameConn takes both out, and what is written is no concern of the reader.
//   - It reads empty frames without end: frameConn counts what comes beside data, and drops the empty ones.
package wsshell
