// Package wire holds what goes over the wire, in one place for both programs: paths, headers, codes
// and their statuses, and the JSON of every body. Writing and parsing are each other's inverse, and
// golden files hold what old peers depend on. docs/protocol.md tells the protocol as a whole.
package wire

// The endpoints of version 1, and of version 2 so far.
const (
	PathExecute = "/engine/v1/execute"
	PathLog     = "/engine/v1/log"
	PathSuccess = "/engine/v1/success"
	PathFailed  = "/engine/v1/failed"
	PathPoll    = "/engine/v1/poll"
	PathReply   = "/engine/v1/reply"
	PathPing    = "/engine/v1/ping"
	PathHello   = "/engine/v2/hello"
	PathToken   = "/engine/v2/token"
)

// QueryID is the parameter of PathReply that tells which action is answered.
const QueryID = "id"

// HeaderError tells why a get-artifact or a get-folder has no content. The name is the ancestor's.
const (
	HeaderError  = "X-Taskcluster-Worker-Error"
	FileNotFound = "file-not-found"
)

// TypeJSON is the content type of every JSON body.
const TypeJSON = "application/json"

// TypeTar is the content type of a folder's archive.
const TypeTar = "application/x-tar"

// DefaultHost is where a guest finds its host: an address that no network routes.
const DefaultHost = "169.254.169.254"

// Limits on bodies, in bytes.
const (
	// MaxAnswer is what a guest reads of an answer at most: the same as version 1 guests do.
	MaxAnswer = 10 << 20
	// MaxHello bounds a hello, MaxResult a result: both are small.
	MaxHello  = 64 << 10
	MaxResult = 64 << 10
)
