// Package guestinit makes guest-tools the init of a guest that has no other: it mounts what a task needs,
// loads the kernel modules that the image lists, brings the network up, starts guest-tools as its child,
// reaps whoever else is orphaned, and powers off when the child has ended or when it is told. In an image
// with a disk it hands over to that disk's init instead.
//
// It is told by signals, as busybox's poweroff, halt and reboot tell their init, and systemd's:
//
//	SIGUSR2, SIGUSR1, SIGPWR, SIGRTMIN+4   power off
//	SIGTERM, SIGINT (Ctrl-Alt-Del)         reboot
//
// The kernel's command line may say more; docs/images.md has the list.
package guestinit

// Where an image has what init needs; adapters/vmimage puts it there.
const (
	modulesList = "/lib/metaservice/modules" // paths of modules, in the order in which they load
	configFile  = "/etc/guest-tools.yaml"    // for guest-tools, where there is one
)
