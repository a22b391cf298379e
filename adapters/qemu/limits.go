package qemu

import (
	"github.com/hexworker/metaservice/adapters/vmnet"
	"github.com/hexworker/metaservice/domain"
)

// LimitRows are the rows of a virtual machine's limits.
func LimitRows() []domain.LimitRow {
	const area = "a virtual machine"
	rows := []domain.LimitRow{
		{Area: area, Name: "memory", Default: "the image's", Of: "what a task may ask for", AtLimit: "the task is refused: its payload is malformed", Change: "qemu.Config.MaxMemory"},
		{Area: area, Name: "processors", Default: "the image's", Of: "what a task may ask for", AtLimit: "the task is refused: its payload is malformed", Change: "qemu.Config.MaxCPUs"},
		{Area: area, Name: "console", Default: domain.LimitBytes(DefaultConsoleBytes), Of: "what is kept of what a guest writes to its console", AtLimit: "the rest is dropped", Change: "qemu.Config.ConsoleBytes"},
	}
	return append(rows, vmnet.LimitRows()...)
}
