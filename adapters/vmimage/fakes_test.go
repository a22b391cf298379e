package vmimage_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/hexworker/metaservice/adapters/vmimage"
)

const release = "6.1.0-test-amd64"

// bootable is a kernel that says its release.
func bootable(says string) []byte {
	data := slices.Concat(kernel(), make([]byte, 1024))
	const at = 0x300
	binary.LittleEndian.PutUint16(data[0x20e:], at)
	copy(data[0x200+at:], says+" (somebody@somewhere) #1 SMP\x00")
	return data
}

// module is an object file with a section .modinfo.
func module(says, depends string) []byte {
	info := "license=GPL\x00depends=" + depends + "\x00vermagic=" + says + " SMP mod_unload \x00"
	return object(elf.ET_REL, elf.EM_X86_64, ".modinfo", []byte(info), 0)
}

// program is a static program, or one with an interpreter.
func program(static bool) []byte {
	part := elf.PT_INTERP
	if static {
		part = elf.PT_LOAD
	}
	return object(elf.ET_EXEC, elf.EM_X86_64, ".text", []byte("hello"), part)
}

// object lays out an ELF file of 64 bits: its header, a program header of that type where it isn't
// PT_NULL, the content of one section, the sections' names, and three section headers.
func object(kind elf.Type, machine elf.Machine, section string, content []byte, part elf.ProgType) []byte {
	const headerSize, partSize, sectionSize = 64, 56, 64
	names := "\x00" + section + "\x00.shstrtab\x00"
	parts := 0
	if part != elf.PT_NULL {
		parts = 1
	}
	contentAt := headerSize + parts*partSize
	namesAt := contentAt + len(content)
	sectionsAt := namesAt + len(names)
	header := elf.Header64{Type: uint16(kind), Machine: uint16(machine), Version: 1, Phoff: headerSize, Shoff: uint64(sectionsAt),
		Ehsize: headerSize, Phentsize: partSize, Phnum: uint16(parts), Shentsize: sectionSize, Shnum: 3, Shstrndx: 2}
	copy(header.Ident[:], elf.ELFMAG)
	header.Ident[elf.EI_CLASS], header.Ident[elf.EI_DATA], header.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	if parts == 0 {
		header.Phoff = 0
	}
	var out bytes.Buffer
	put := func(v any) { _ = binary.Write(&out, binary.LittleEndian, v) }
	put(header)
	if parts == 1 {
		put(elf.Prog64{Type: uint32(part), Off: uint64(contentAt), Filesz: uint64(len(content)), Memsz: uint64(len(content))})
	}
	out.Write(content)
	out.WriteString(names)
	put(elf.Section64{})
	put(elf.Section64{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: uint64(contentAt), Size: uint64(len(content))})
	put(elf.Section64{Name: uint32(len(section) + 2), Type: uint32(elf.SHT_STRTAB), Off: uint64(namesAt), Size: uint64(len(names))})
	return out.Bytes()
}

// pack packs as the end of a name says.
func pack(t *testing.T, name string, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	var err error
	switch filepath.Ext(name) {
	case ".gz":
		w = gzip.NewWriter(&out)
	case ".xz":
		w, err = xz.NewWriter(&out)
	case ".zst":
		w, err = zstd.NewWriter(&out)
	default:
		return data
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// kit is what an image is made of, in a folder of its own: all that a build needs, and nothing more.
type kit struct {
	t      *testing.T
	dir    string
	config vmimage.BuildConfig
}

func newKit(t *testing.T) *kit {
	t.Helper()
	k := &kit{t: t, dir: t.TempDir()}
	k.config = vmimage.BuildConfig{Kernel: k.at("vmlinuz-test"), Modules: k.at("modules"), Root: k.at("root"),
		GuestTools: k.at("guest-tools"), Output: k.at("out/image")}
	writeFiles(t, k.dir, map[string][]byte{"vmlinuz-test": bootable(release), "guest-tools": program(true),
		"root/bin/sh": []byte("#!"), "root/etc/motd": []byte("hello\n")})
	k.modules(map[string]string{
		"kernel/drivers/virtio/virtio_ring.ko": "", "kernel/drivers/virtio/virtio.ko": "virtio_ring",
		"kernel/drivers/virtio/virtio_pci.ko": "virtio,virtio_ring", "kernel/drivers/net/virtio_net.ko": "virtio,failover",
		"kernel/net/core/failover.ko": "", "kernel/sound/snd.ko": "",
	})
	return k
}

func (k *kit) at(name string) string { return filepath.Join(k.dir, filepath.FromSlash(name)) }

// modules writes modules by their files' names, with what they depend on.
func (k *kit) modules(depends map[string]string) {
	k.t.Helper()
	files := make(map[string][]byte)
	for name, needs := range depends {
		files["modules/"+name] = pack(k.t, name, module(release, needs))
	}
	writeFiles(k.t, k.dir, files)
}

func (k *kit) build() (vmimage.Image, error) {
	return vmimage.Build(context.Background(), k.config)
}

// mustBuild builds, and returns the image's initramfs: its entries by name.
func (k *kit) mustBuild() map[string]entry {
	k.t.Helper()
	image, err := k.build()
	if err != nil {
		k.t.Fatal(err)
	}
	entries := make(map[string]entry)
	for _, e := range readInitrd(k.t, image.InitrdFile()) {
		entries[e.name] = e
	}
	return entries
}

// fails builds, and looks for an error with these words, and for what is left of the try.
func (k *kit) fails(want ...string) {
	k.t.Helper()
	_, err := k.build()
	if err == nil {
		k.t.Fatalf("there was no error, want one with %q", want)
	}
	for _, word := range want {
		if !strings.Contains(err.Error(), word) {
			k.t.Errorf("the error is %v, want one with %q", err, word)
		}
	}
	if left, _ := filepath.Glob(k.at("out/*")); len(left) > 0 {
		k.t.Errorf("a failed build left %q", left)
	}
	if left, _ := filepath.Glob(k.at("out/.*")); len(left) > 0 {
		k.t.Errorf("a failed build left %q", left)
	}
}

// list is the modules that a guest loads, by their bare names.
func list(entries map[string]entry) []string {
	var names []string
	for line := range strings.Lines(entries["lib/metaservice/modules"].content) {
		name, ok := strings.CutSuffix(filepath.Base(strings.TrimSpace(line)), ".ko")
		if _, there := entries[strings.TrimPrefix(strings.TrimSpace(line), "/")]; !ok || !there {
			name = fmt.Sprintf("%q, which is no module of the initramfs", line)
		}
		names = append(names, name)
	}
	return names
}
