package wire

import "github.com/hexworker/metaservice/domain"

// LimitRows are the rows of the limits on what is parsed.
func LimitRows() []domain.LimitRow {
	const area = "what is parsed"
	const fixed = "fixed: nothing that is well comes near it"
	return []domain.LimitRow{
		{Area: area, Name: "hello", Default: domain.LimitBytes(MaxHello), Of: "its body", AtLimit: "413; in the log", Change: fixed},
		{Area: area, Name: "result", Default: domain.LimitBytes(MaxResult), Of: "its body", AtLimit: "the connection is closed, since 4xx would be final; in the log", Change: fixed},
		{Area: area, Name: "list depth", Default: domain.LimitCount(maxDepth), Of: "nested JSON in a list, in fields that nobody knows", AtLimit: "400; the action has failed, and is tried again", Change: fixed},
		{Area: area, Name: "list token", Default: domain.LimitBytes(maxToken), Of: "a list without a name ending", AtLimit: "as for list depth", Change: fixed},
		{Area: area, Name: "archive headers", Default: domain.LimitBytes(maxArchiveHeaders), Of: "an archive between one file's content and the next file", AtLimit: "400; what is missing is fetched file by file", Change: fixed},
		{Area: area, Name: "path", Default: domain.LimitBytes(domain.MaxPath), Of: "one name in a list", AtLimit: "the name is left out and counted: the caller and the log are told", Change: "fixed: no file system has longer ones"},
		{Area: area, Name: "name", Default: domain.LimitBytes(domain.MaxName), Of: "one part of it", AtLimit: "as for path", Change: "fixed: as for path"},
		{Area: area, Name: "shown text", Default: domain.LimitBytes(domain.MaxQuoted), Of: "what a message or a log line shows of a guest's words, before escapes", AtLimit: "it is cut, and says so", Change: fixed},
	}
}
