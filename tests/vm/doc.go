// Package vm tests virtual machines for real: each test boots a kernel in QEMU, with guest-tools of these
// very sources in it. It needs QEMU and an image: METASERVICE_IMAGE names one, else it is the one that
// `make image` makes. In CI it is a failure if either is missing, elsewhere the tests are skipped.
package vm
