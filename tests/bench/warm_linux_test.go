package bench

import (
	"os"
	"syscall"
	"testing"
)

// warm has the system own so much free memory, in pieces as large as can be. What a virtual machine leaves unused
// its hypervisor may take back, and whoever is the next to touch it waits for its return, which takes longer than
// copying into it does: that is the luck of the draw, and not a figure of anybody's.
func warm(b *testing.B, bytes int) {
	b.Helper()
	memory, err := syscall.Mmap(-1, 0, bytes, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	must(b, err)
	_ = syscall.Madvise(memory, syscall.MADV_HUGEPAGE) // where there are none, small ones are as good
	for i := 0; i < len(memory); i += os.Getpagesize() {
		memory[i] = 1
	}
	must(b, syscall.Munmap(memory))
}
