package domain

import (
	"strconv"
	"unicode/utf8"
)

// MaxQuoted is how many bytes of a guest's text a message or a log line shows.
const MaxQuoted = 1024

// Quote makes text that came from a guest safe to show: quoted, no control characters, 1 KiB of it at
// most (the escapes of what can't be shown make that up to four times as long). What a guest says ends
// up in terminals and log files of people who trust them.
func Quote(text string) string { return strconv.Quote(Cut(text)) }

// Cut shortens text to 1 KiB, at a rune's boundary, and says that it did.
func Cut(text string) string {
	if len(text) <= MaxQuoted {
		return text
	}
	end := MaxQuoted
	for end > MaxQuoted-utf8.UTFMax && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "…"
}
