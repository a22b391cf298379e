package main

import (
	"runtime"
	"strings"
	"testing"
)

func TestMachinesThatCannotBe(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("virtual machines need a Linux host")
	}
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv(imageVariable, "")
	for name, test := range map[string]struct {
		args []string
		says string
	}{
		"no such machine":          {[]string{"--machine", "docker"}, "--machine docker: it must be process or qemu"},
		"an image of no machine":   {[]string{"--image", "x"}, "--image is for --machine qemu"},
		"memory of no machine":     {[]string{"--memory", "1GiB"}, "--memory is for --machine qemu"},
		"processors of no machine": {[]string{"--cpus", "1"}, "--cpus is for --machine qemu"},
		"a network of no machine":  {[]string{"--network", "nat"}, "--network is for --machine qemu"},
		"a console of no machine":  {[]string{"--console", "x"}, "--console is for --machine qemu"},
		"tools of an image":        {[]string{"--machine", "qemu", "--guest-tools", "x"}, "--guest-tools is for --machine process"},
		"a config of an image":     {[]string{"--machine", "qemu", "--config", "x"}, "--config is for --machine process"},
		"no such network":          {[]string{"--machine", "qemu", "--network", "bridge"}, "it must be isolated or nat"},
		"no such acceleration":     {[]string{"--machine", "qemu", "--acceleration", "hax"}, "it must be auto, kvm or tcg"},
		"no processors":            {[]string{"--machine", "qemu", "--cpus", "0"}, "it must be from 1 to 64"},
		"too many processors":      {[]string{"--machine", "qemu", "--cpus", "65"}, "it must be from 1 to 64"},
		"no size":                  {[]string{"--machine", "qemu", "--memory", "lots"}, "it must be a size like 512MiB"},
		"little memory":            {[]string{"--machine", "qemu", "--memory", "1MiB"}, "of 64 MiB at least"},
		"an empty image":           {[]string{"--machine", "qemu", "--image", ""}, "--image is empty"},
		"an empty console":         {[]string{"--machine", "qemu", "--console", ""}, "--console is empty"},
		"no image":                 {[]string{"--machine", "qemu"}, "'make image' makes one"},
		"no image there":           {[]string{"--machine", "qemu", "--image", "no/such"}, "no machine.json"},
	} {
		for _, command := range []string{"run", "shell"} {
			args := append(append([]string{command}, test.args...), "--", "true")
			if status, _, stderr := line(t, args...); status != 125 || !strings.Contains(stderr, test.says) {
				t.Errorf("%s, %s: status %d, %s", name, command, status, stderr)
			}
		}
	}
}
