// Package domain holds what metaservice is about, and nothing of how it is done: the actions that a
// host asks of a guest, the task and its one resolution, the log's account, the mailbox in which
// actions wait for a poll, and the rules for names that a guest tells.
//
// Everything here is a value or a rule: no I/O, no goroutine, no lock and no clock. Time comes in as
// a value, so tests are tables. Types that change (Mailbox, Resolution, LogBook, Presence, Pace) are
// not safe for use by several goroutines at once; whoever owns one guards it.
package domain
