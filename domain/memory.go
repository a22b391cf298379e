package domain

// streamReserve is what each of a shell's outputs may hold whatever the others do: version 1's window.
const streamReserve = 64 << 10

// ShellBudget shares out what the shells of one guest may hold together of what the guest has sent and
// nobody has read.
type ShellBudget struct{ left int64 }

// NewShellBudget shares out so many bytes.
func NewShellBudget(most int64) *ShellBudget { return &ShellBudget{left: most} }

// Reserve takes the first 64 KiB of so many outputs, or what is left where that is less: they are granted
// all the same. What it returns is to be given back.
func (b *ShellBudget) Reserve(outputs int) (taken int64) {
	return b.take(min(int64(outputs)*streamReserve, b.left))
}

// Take takes what a stream may have that wants so many bytes beyond its first: a quarter of what is left
// at most, so that the first one gets plenty and each later one something. What it returns is to be given
// back.
func (b *ShellBudget) Take(want int64) (taken int64) { return b.take(min(want, b.left/4)) }

func (b *ShellBudget) take(n int64) int64 {
	n = max(n, 0)
	b.left -= n
	return n
}

// Give gives back what was taken.
func (b *ShellBudget) Give(n int64) { b.left += max(n, 0) }

// Left is what nobody has taken.
func (b *ShellBudget) Left() int64 { return b.left }
