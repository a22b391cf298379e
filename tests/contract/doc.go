// Package contract holds the contract of each port as one suite of tests, which every adapter and
// every fake of it runs.
package contract
