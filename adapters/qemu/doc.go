// Package qemu is a machine that boots each guest in a virtual machine of its own: a kernel with an
// initramfs, or with a disk as well, in QEMU, under KVM or TCG.
//
// QEMU is a child of this process and has nothing that it doesn't need: no configuration of the user's, no
// default devices, no display, no monitor, and its own system call filter switched on. Its one network card
// is a socket pair to this process, and its console is its standard output, so no file, no socket and no
// port comes of a guest. What a guest writes to a disk goes into a temporary file that never had a name, and
// its token comes through a pipe. All of it ends when QEMU does, and QEMU ends when this process does,
// however that ends.
//
// The network at the card's other end is adapters/vmnet's; Config.Serve serves what it listens for. Images
// are adapters/vmimage's.
//
// A guest that ends by itself has died, whether it was powered off, rebooted, panicked or ran out of
// memory, on which it panics: its error tells which, with the last lines of its console.
package qemu
