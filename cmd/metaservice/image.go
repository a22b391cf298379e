package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hexworker/metaservice/adapters/vmimage"
)

func imageCommand(to streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:                   "image COMMAND",
		Short:                 "Make images that guests boot from",
		DisableFlagsInUseLine: true,
		Args:                  cobra.ArbitraryArgs,
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("say what to do: build")
			}
			return usagef("there is no command %q: it must be build", args[0])
		},
	}
	cmd.AddCommand(imageBuildCommand(to))
	return cmd
}

func imageBuildCommand(to streams) *cobra.Command {
	var config vmimage.BuildConfig
	var memory string
	cmd := &cobra.Command{
		Use:   "build --kernel FILE --modules DIR --rootfs DIR|busybox --output DIR",
		Short: "Make an image of a kernel, its modules, a root folder and guest-tools",
		Long: `Make an image: a folder with a kernel, an initramfs in which guest-tools are init, and
machine.json. The modules that a guest needs are found, with all that they depend on. The
same files make the same image.`,
		Example: "  metaservice image build --kernel /boot/vmlinuz-6.1.0 --modules /lib/modules/6.1.0 --rootfs busybox -o image",
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("image build takes no arguments, only flags: %q is one", args[0])
			}
			for _, name := range []string{"kernel", "modules", "rootfs", "output"} {
				if cmd.Flag(name).Value.String() == "" {
					return usagef("--%s is missing", name)
				}
			}
			if memory != "" {
				if err := config.Memory.UnmarshalText([]byte(memory)); err != nil {
					return usagef("--memory: %w", err)
				}
			}
			var err error
			if config.GuestTools, err = findTools(config.GuestTools); err != nil {
				return err
			}
			image, err := vmimage.Build(cmd.Context(), config)
			if err != nil {
				return fmt.Errorf("no image was made: %w", err)
			}
			fmt.Fprintln(to.out, image.Dir)
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&config.Kernel, "kernel", "", "boot this `FILE`, a bzImage")
	flags.StringVar(&config.Modules, "modules", "", "take modules from this `DIR`, like /lib/modules/RELEASE")
	flags.StringVar(&config.Root, "rootfs", "", "fill the guest with this `DIR`, or with the static busybox on the PATH")
	flags.StringVarP(&config.Output, "output", "o", "", "make this `DIR`")
	flags.StringVar(&config.GuestTools, "guest-tools", "", "take this `FILE` in (default guest-tools beside metaservice, or on PATH)")
	flags.StringArrayVar(&config.More, "module", nil, "load this module, too, by its `NAME`; may be repeated")
	flags.StringVar(&config.Append, "append", "quiet", "add this `TEXT` to the kernel's command line")
	flags.StringVar(&memory, "memory", "", "give the guest this much memory, a `SIZE` (default 256MiB)")
	flags.IntVar(&config.CPUs, "cpus", 0, "give the guest `N` processors (default 1)")
	return cmd
}
