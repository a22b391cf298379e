package vmimage_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hexworker/metaservice/adapters/vmimage"
)

const whole = `{
  "version": 1,
  "arch": "amd64",
  "kernel": "vmlinuz",
  "initrd": "boot/initrd.img",
  "disk": "disk.qcow2",
  "diskFormat": "qcow2",
  "append": "quiet",
  "memory": "1GiB",
  "cpus": 2
}
`

func TestParseAndFormatAreInverses(t *testing.T) {
	want := vmimage.Definition{Version: 1, Arch: "amd64", Kernel: "vmlinuz", Initrd: "boot/initrd.img", Disk: "disk.qcow2",
		DiskFormat: vmimage.FormatQCOW2, Append: "quiet", Memory: 1 << 30, CPUs: 2}
	got, err := vmimage.Parse([]byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	text, err := got.Format()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(whole, string(text)); diff != "" {
		t.Error(diff)
	}
}

func TestWhatIsLeftOutHasADefault(t *testing.T) {
	text := `{"version":1,"arch":"amd64","kernel":"k","initrd":"i"}`
	d, err := vmimage.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := d.Format(); err != nil || strings.ContainsAny(string(got), "0") || strings.Contains(string(got), "null") {
		t.Errorf("what was left out is written as %s, %v", got, err)
	}
	d = d.WithDefaults()
	if d.Memory != 256<<20 || d.CPUs != 1 {
		t.Errorf("the defaults are %s and %d CPUs", d.Memory, d.CPUs)
	}
}

func TestParseNamesEveryMistake(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"no JSON", `version: 1`, "invalid character"},
		{"two values", `{"version":1,"arch":"amd64","kernel":"k","initrd":"i"} {}`, "after top-level value"},
		{"an unknown key", `{"version":1,"arch":"amd64","kernel":"k","initrd":"i","cpu":1}`, `"cpu"`},
		{"a key twice", `{"version":1,"version":1,"arch":"amd64","kernel":"k","initrd":"i"}`, `"version"`},
		{"a key in capitals", `{"Version":1,"arch":"amd64","kernel":"k","initrd":"i"}`, `"Version"`},
		{"another version", `{"version":2,"arch":"amd64","kernel":"k","initrd":"i"}`, "version is 2"},
		{"no version", `{"arch":"amd64","kernel":"k","initrd":"i"}`, "version is 0"},
		{"another architecture", `{"version":1,"arch":"arm64","kernel":"k","initrd":"i"}`, `arch is "arm64"`},
		{"no kernel", `{"version":1,"arch":"amd64","initrd":"i"}`, "kernel is missing"},
		{"nothing to start", `{"version":1,"arch":"amd64","kernel":"k"}`, "neither initrd nor disk"},
		{"an absolute name", `{"version":1,"arch":"amd64","kernel":"/boot/vmlinuz","initrd":"i"}`, `kernel is "/boot/vmlinuz"`},
		{"a name that leaves", `{"version":1,"arch":"amd64","kernel":"k","initrd":"a/../../i"}`, "initrd is"},
		{"the folder itself", `{"version":1,"arch":"amd64","kernel":".","initrd":"i"}`, "kernel is"},
		{"a backslash", `{"version":1,"arch":"amd64","kernel":"a\\b","initrd":"i"}`, "kernel is"},
		{"a NUL", `{"version":1,"arch":"amd64","kernel":"a\u0000b","initrd":"i"}`, "kernel is"},
		{"a disk of no format", `{"version":1,"arch":"amd64","kernel":"k","disk":"d"}`, `diskFormat is ""`},
		{"a disk of another format", `{"version":1,"arch":"amd64","kernel":"k","disk":"d","diskFormat":"vmdk"}`, `diskFormat is "vmdk"`},
		{"a format of no disk", `{"version":1,"arch":"amd64","kernel":"k","initrd":"i","diskFormat":"raw"}`, "without a disk"},
		{"two lines", `{"version":1,"arch":"amd64","kernel":"k","initrd":"i","append":"a\nb"}`, "append is"},
		{"a long line", `{"version":1,"arch":"amd64","kernel":"k","initrd":"i","append":"` + strings.Repeat("a", 1025) + `"}`, "1025 bytes"},
		{"memory as a number", `{"version":1,"arch":"amd64","kernel":"k","initrd":"i","memory":256}`, `memory is "256"`},
		{"memory as a word", `{"version":1,"arch":"amd64","kernel":"k","initrd":"i","memory":"lots"}`, `"lots" is no size`},
		{"little memory", `{"version":1,"arch":"amd64","kernel":"k","initrd":"i","memory":"63MiB"}`, "memory is 63MiB"},
		{"much memory", `{"version":1,"arch":"amd64","kernel":"k","initrd":"i","memory":"1025GiB"}`, "it must be from 64MiB to 1024GiB"},
		{"no memory", `{"version":1,"arch":"amd64","kernel":"k","initrd":"i","memory":"0"}`, "memory is 0B: it must be from"},
		{"no CPUs", `{"version":1,"arch":"amd64","kernel":"k","initrd":"i","cpus":0}`, "cpus is 0: it must be from 1"},
		{"null for a number", `{"version":1,"arch":"amd64","kernel":"k","initrd":"i","cpus":null}`, "cpus is null"},
		{"null for a text", `{"version":1,"arch":"amd64","kernel":"k","initrd":"i","append":null}`, "append is null"},
		{"null for all", `null`, "version is 0"},
		{"many CPUs", `{"version":1,"arch":"amd64","kernel":"k","initrd":"i","cpus":65}`, "cpus is 65"},
		{"fewer CPUs than none", `{"version":1,"arch":"amd64","kernel":"k","initrd":"i","cpus":-1}`, "cpus is -1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := vmimage.Parse([]byte(test.text))
			if !errors.Is(err, vmimage.ErrInvalidImage) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("the error is %v, want one with %q", err, test.want)
			}
		})
	}
	_, err := vmimage.Parse([]byte(`{"version":3,"arch":"vax","kernel":"../k","disk":"d","cpus":999}`))
	for _, want := range []string{"version", "arch", "kernel", "diskFormat", "cpus"} {
		if err == nil || !strings.Contains(err.Error(), want+" is") {
			t.Errorf("of five mistakes %s isn't told: %v", want, err)
		}
	}
}

// A message that is never the same twice can't be searched for.
func TestMistakesComeInOrder(t *testing.T) {
	text := `{"z":1,"cpus":null,"memory":1,"y":1,"version":"1","b":1,"a":1,"kernel":null}`
	for range 20 {
		_, err := vmimage.Parse([]byte(text))
		var told []string
		for line := range strings.Lines(strings.TrimPrefix(err.Error(), "invalid image: ")) {
			told = append(told, strings.Trim(strings.Fields(line)[0], `"`))
		}
		if diff := cmp.Diff([]string{"a", "b", "cpus", "kernel", "memory", "version", "y", "z"}, told); diff != "" {
			t.Fatalf("%v\n%s", err, diff)
		}
	}
}

// kernel is what a file begins with that is a kernel for amd64.
func kernel() []byte {
	return slices.Concat(make([]byte, 0x202), []byte("HdrS"), make([]byte, 512))
}

func writeFiles(t *testing.T, dir string, files map[string][]byte) {
	t.Helper()
	for name, data := range files {
		full := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReadLooksAtTheFiles(t *testing.T) {
	dir := t.TempDir()
	writeFiles(t, dir, map[string][]byte{
		"machine.json": []byte(whole), "vmlinuz": kernel(), "boot/initrd.img": []byte("x"), "disk.qcow2": []byte("QFI\xfb\x00"),
	})
	image, err := vmimage.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	for got, want := range map[string]string{
		image.KernelFile(): "vmlinuz", image.InitrdFile(): "boot/initrd.img", image.DiskFile(): "disk.qcow2",
	} {
		if want := filepath.Join(dir, filepath.FromSlash(want)); got != want {
			t.Errorf("the file is %s, want %s", got, want)
		}
	}
	if got := (vmimage.Image{Dir: dir}).DiskFile(); got != "" {
		t.Errorf("the disk of an image without one is %q", got)
	}
}

func TestReadNamesWhatIsWrongWithTheFiles(t *testing.T) {
	good := map[string][]byte{
		"machine.json": []byte(whole), "vmlinuz": kernel(), "boot/initrd.img": []byte("x"), "disk.qcow2": []byte("QFI\xfb\x00"),
	}
	for _, test := range []struct {
		name  string
		spoil func(t *testing.T, dir string)
		want  []string
	}{
		{"no definition", remove("machine.json"), []string{"no machine.json"}},
		{"a long definition", write("machine.json", make([]byte, 1<<16+1)), []string{"more than 65536 bytes"}},
		{"a bad definition", write("machine.json", []byte("{}")), []string{"machine.json", "version is 0"}},
		{"no kernel", remove("vmlinuz"), []string{"kernel", `"vmlinuz"`, "no such file"}},
		{"a kernel that is a folder", folder("vmlinuz"), []string{"kernel", "no regular file"}},
		{"a kernel that isn't one", write("vmlinuz", make([]byte, 2000)), []string{"no Linux kernel"}},
		{"a kernel that is cut", write("vmlinuz", kernel()[:0x204]), []string{"no Linux kernel"}},
		{"an empty kernel", write("vmlinuz", nil), []string{"kernel", "it is empty"}},
		{"an empty initramfs", write("boot/initrd.img", nil), []string{"initrd", "it is empty"}},
		{"a disk of another format", write("disk.qcow2", []byte("KDMV")), []string{"disk", "no qcow2"}},
		{"two mistakes", func(t *testing.T, dir string) { remove("vmlinuz")(t, dir); remove("disk.qcow2")(t, dir) },
			[]string{`kernel "vmlinuz"`, `disk "disk.qcow2"`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if runtime.GOOS == "windows" && strings.Contains(strings.Join(test.want, ""), "no such file") {
				t.Skip("Windows has words of its own")
			}
			dir := t.TempDir()
			writeFiles(t, dir, good)
			test.spoil(t, dir)
			_, err := vmimage.Read(dir)
			if !errors.Is(err, vmimage.ErrInvalidImage) {
				t.Fatalf("the error is %v", err)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error is %v, want one with %q", err, want)
				}
			}
		})
	}
	if _, err := vmimage.Read(filepath.Join(t.TempDir(), "nowhere")); !errors.Is(err, vmimage.ErrInvalidImage) {
		t.Errorf("the error for no folder at all is %v", err)
	}
}

func TestWriteTakesOnlyWhatReadTakes(t *testing.T) {
	dir := t.TempDir()
	d := vmimage.Definition{Version: 1, Arch: "amd64", Kernel: "vmlinuz", Initrd: "initrd.img"}
	if err := vmimage.Write(dir, d); !errors.Is(err, vmimage.ErrInvalidImage) {
		t.Errorf("the error for an image without its files is %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("what was refused left %v, %v", entries, err)
	}
	writeFiles(t, dir, map[string][]byte{"vmlinuz": kernel(), "initrd.img": []byte("x")})
	if err := vmimage.Write(dir, d); err != nil {
		t.Fatal(err)
	}
	image, err := vmimage.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(d.WithDefaults(), image.Definition); diff != "" {
		t.Error(diff)
	}
	if err := vmimage.Write(dir, vmimage.Definition{}); !errors.Is(err, vmimage.ErrInvalidImage) {
		t.Errorf("the error for an empty definition is %v", err)
	}
}

func remove(name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		if err := os.Remove(filepath.Join(dir, filepath.FromSlash(name))); err != nil {
			t.Fatal(err)
		}
	}
}

func write(name string, data []byte) func(*testing.T, string) {
	return func(t *testing.T, dir string) { writeFiles(t, dir, map[string][]byte{name: data}) }
}

func folder(name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		remove(name)(t, dir)
		if err := os.Mkdir(filepath.Join(dir, filepath.FromSlash(name)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}
