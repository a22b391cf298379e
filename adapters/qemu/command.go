package qemu

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/hexworker/metaservice/adapters/vmnet"
)

// What QEMU inherits beside the standard files has these descriptors, which its command line names. No
// argument has what is in them: everybody on the host can read arguments.
const (
	cardFD    = 3 // its end of the guest's card
	overlayFD = 4 // what the guest writes to its disk
	tokenFD   = 5 // what the guest's tools prove themselves with
)

// TokenName is what the firmware calls the token. A guest has it in a file below
// /sys/firmware/qemu_fw_cfg/by_name that root alone can read.
const TokenName = "opt/org.hexworker.metaservice.token"

// arguments are QEMU's.
func (m *Machine) arguments(wish wish, acceleration Acceleration) []string {
	image := m.config.Image
	accelerator, processor := "tcg,thread=multi,tb-size=128", "max"
	if acceleration == KVM {
		accelerator, processor = "kvm", "host"
	}
	args := []string{
		"-name", "metaservice-guest",
		"-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-no-reboot", // a guest that reboots has ended
		"-machine", "pc,usb=off", "-accel", accelerator, "-cpu", processor,
		"-smp", strconv.Itoa(wish.cpus),
		"-m", fmt.Sprintf("size=%dk", wish.memory>>10),
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-object", "rng-builtin,id=random", "-device", "virtio-rng-pci,rng=random",
		"-netdev", fmt.Sprintf("stream,id=net,server=off,addr.type=fd,addr.str=%d", cardFD),
		// Without a ROM, nothing boots from the network. A large MTU makes large frames.
		"-device", fmt.Sprintf("virtio-net-pci,netdev=net,mac=%s,host_mtu=%d,rx_queue_size=1024,romfile=", vmnet.GuestMAC, vmnet.MTU),
		"-kernel", image.KernelFile(),
		"-append", m.kernelLine(wish),
	}
	if image.Initrd != "" {
		args = append(args, "-initrd", image.InitrdFile())
	}
	if image.Disk != "" {
		args = append(args,
			// What the guest writes is lost with it, so nothing has to be safe on the way. The disk itself is
			// the overlay's backing file, which is only read.
			"-drive", fmt.Sprintf("file=%s,format=qcow2,if=none,id=disk,cache=unsafe,"+
				"backing.driver=%s,backing.file.driver=file,backing.file.filename=%s",
				fdPath(overlayFD), image.DiskFormat, escape(image.DiskFile())),
			// A host whose disk is full is an error in the guest. QEMU would suspend the guest otherwise, and
			// there is nobody to resume it.
			"-device", "virtio-blk-pci,drive=disk,werror=report,rerror=report")
	}
	if wish.token {
		args = append(args, "-fw_cfg", fmt.Sprintf("name=%s,file=%s", TokenName, fdPath(tokenFD)))
	}
	return args
}

// fdPath is a name under which a process opens what it has inherited.
func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// escape is for values that QEMU splits at commas.
func escape(value string) string { return strings.ReplaceAll(value, ",", ",,") }

// kernelLine is the kernel's command line. What the image has there itself is not said twice.
func (m *Machine) kernelLine(wish wish) string {
	image := m.config.Image
	// The guest ends on a panic, and panics where it would have to pick a process to kill for its
	// memory: nobody would know why the task died.
	words := []string{"console=ttyS0", "panic=-1", "sysctl.vm.panic_on_oom=1"}
	if !says(image.Append, "metaservice.net", "dhcp") {
		words = append(words, "metaservice.address="+vmnet.Guest.String())
		if wish.nat {
			words = append(words, "metaservice.gateway="+vmnet.Gateway.String(), "metaservice.dns="+vmnet.Gateway.String())
		}
	}
	if image.Disk != "" && !says(image.Append, "root", "") {
		words = append(words, "metaservice.root=/dev/vda")
	}
	line := words[:0:0]
	for _, word := range words {
		// There may be several consoles, and one is ours.
		if name, _, _ := strings.Cut(word, "="); name == "console" || !says(image.Append, name, "") {
			line = append(line, word)
		}
	}
	return strings.TrimSpace(strings.Join(line, " ") + " " + image.Append)
}

// says tells whether a command line has an option, with a certain value unless that is empty.
func says(line, name, value string) bool {
	for word := range strings.FieldsSeq(line) {
		if n, v, _ := strings.Cut(word, "="); n == name && (value == "" || v == value) {
			return true
		}
	}
	return false
}
