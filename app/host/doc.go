// Package host is the host's side of metaservice without its HTTP: the service that one guest talks
// to, and the run of one task in one machine.
//
// A Service answers what a guest asks (it is the ports.GuestAPI) and asks the guest for files,
// folders and the end of its task. A Task boots a machine, serves a Service to it, and ends with one
// domain.Outcome. Collect brings files and folders out of the guest.
//
// Whatever a guest does, every call returns within its context's end and a second, and every body,
// list, queue and wait is bounded by domain.Limits.
package host
