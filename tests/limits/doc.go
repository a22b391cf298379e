// Package limits shows that a guest that does what its host asks for, however much that is, meets none of the
// limits that hold against one that doesn't.
package limits
