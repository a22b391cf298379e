package wire_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// textFile is a ports.File in memory.
type textFile struct {
	io.Reader
	size int64
}

func (f textFile) Size() int64 { return f.size }
func (textFile) Close() error  { return nil }

// archived is one entry, as it comes.
type archived struct {
	Entry   domain.ArchiveEntry
	Content string
}

// folderFiles is a sequence of pairs: a name, and its content, or a failure after '!'.
func folderFiles(pairs ...string) iter.Seq2[ports.FolderFile, error] {
	return func(yield func(ports.FolderFile, error) bool) {
		for i := 0; i < len(pairs); i += 2 {
			file := ports.FolderFile{Name: pairs[i]}
			if failure, failed := strings.CutPrefix(pairs[i+1], "!"); failed {
				file.Failure = domain.FileFailure(failure)
			} else {
				file.File = textFile{strings.NewReader(pairs[i+1]), int64(len(pairs[i+1]))}
			}
			if !yield(file, nil) {
				return
			}
		}
	}
}

// archive is a whole one, as it is streamed.
func archive(pairs ...string) []byte {
	var buf bytes.Buffer
	if err := wire.EncodeArchive(&buf, folderFiles(pairs...)); err != nil {
		panic(err)
	}
	return buf.Bytes()
}

// decodeArchive is all that is in an archive. The content of what is unfit stays unread.
func decodeArchive(r io.Reader) (all []archived, err error) {
	err = wire.DecodeArchive(r, func(entry domain.ArchiveEntry, content io.Reader) error {
		text := []byte{}
		var err error
		if entry.Unfit == "" {
			text, err = io.ReadAll(content)
		}
		all = append(all, archived{entry, string(text)})
		return err
	})
	return all, err
}

// The entry of a file is one that any tar program reads.
func TestAnArchiveIsAnArchive(t *testing.T) {
	names := []string{".hidden", "a b", "d/" + strings.Repeat("n", 120), "ünï", "not UTF-8 \xff"}
	var pairs []string
	for _, name := range names {
		pairs = append(pairs, name, "content of "+name)
	}
	r := tar.NewReader(bytes.NewReader(archive(pairs...)))
	for _, name := range names {
		header, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil || header.Name != name || header.Typeflag != tar.TypeReg || string(content) != "content of "+name {
			t.Errorf("%q is %q with %q, %v", name, header.Name, content, err)
		}
	}
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("more follows: %v", err)
	}
}

// Cut anywhere, byte by byte or all at once, an archive is never taken for the whole.
func TestAnArchiveThatIsCut(t *testing.T) {
	whole := archive("a", "content", strings.Repeat("long", 40), "!io-error", "ü", "more", "z", "")
	for n := range len(whole) {
		cut := whole[:n]
		for what, r := range map[string]io.Reader{
			"all at once": bytes.NewReader(cut), "with its end": iotest.DataErrReader(bytes.NewReader(cut)), "broken off": io.MultiReader(bytes.NewReader(cut), iotest.ErrReader(errTest)),
		} {
			want := domain.ErrInvalidReply
			if what == "broken off" {
				want = errTest
			}
			if _, err := decodeArchive(r); !errors.Is(err, want) {
				t.Fatalf("the first %d of %d bytes, %s, are %v", n, len(whole), what, err)
			}
		}
	}
	for what, r := range map[string]io.Reader{
		"byte by byte": iotest.OneByteReader(bytes.NewReader(whole)), "with its end": iotest.DataErrReader(bytes.NewReader(whole)),
		"filled up": io.MultiReader(bytes.NewReader(whole), bytes.NewReader(make([]byte, 8<<10))),
	} {
		if all, err := decodeArchive(r); err != nil || len(all) != 4 {
			t.Errorf("%s it is %v, %v", what, all, err)
		}
	}
	for _, more := range []string{"x", strings.Repeat("\x00", 600) + "x", string(whole)} {
		if _, err := decodeArchive(io.MultiReader(bytes.NewReader(whole), strings.NewReader(more))); !errors.Is(err, domain.ErrInvalidReply) {
			t.Errorf("%d bytes after the end are %v", len(more), err)
		}
	}
	if _, err := decodeArchive(io.MultiReader(bytes.NewReader(whole), iotest.ErrReader(errTest))); err != errTest {
		t.Errorf("broken off after its end it is %v", err)
	}
}

var errTest = errors.New("the connection broke")

// What the decoder calls is in charge.
func TestTheReaderOfAnArchiveEndsIt(t *testing.T) {
	err := wire.DecodeArchive(bytes.NewReader(archive("a", "1", "b", "2")), func(domain.ArchiveEntry, io.Reader) error { return errTest })
	if err != errTest {
		t.Errorf("it is %v", err)
	}
}

// What is neither a file nor a folder is told as what it is, and what is behind it comes.
func TestArchivesOfOtherThings(t *testing.T) {
	tests := map[string]tar.Header{
		"a link":                      {Typeflag: tar.TypeSymlink, Linkname: "/etc"},
		"a link ":                     {Typeflag: tar.TypeLink, Linkname: "a"},
		"a device or a FIFO":          {Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 5},
		"a device or a FIFO ":         {Typeflag: tar.TypeBlock},
		"a device or a FIFO  ":        {Typeflag: tar.TypeFifo},
		"a header for all others":     {Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"path": "/etc/x"}},
		"of the unknown type '7'":     {Typeflag: tar.TypeCont, Size: 3},
		"of the unknown type 'Z'":     {Typeflag: 'Z', Size: 3},
		"of the unknown type '\\x1b'": {Typeflag: 0x1b, Size: 3},
		"a file with holes":           {}, // which package tar doesn't write
		"a file with holes ":          {},
	}
	for want, header := range tests {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		header.Name = "x"
		switch want {
		case "a file with holes":
			buf.Write(oldHoles(1 << 50))
		case "a file with holes ":
			buf.Write(paxHoles(1<<50, tar.TypeReg))
		default:
			if header.Typeflag == tar.TypeXGlobalHeader {
				header.Name = ""
			}
			err := w.WriteHeader(&header)
			if err == nil && header.Size > 0 {
				_, err = w.Write([]byte("abc"))
			}
			if err != nil {
				t.Fatal(want, err)
			}
		}
		err := errors.Join(w.WriteHeader(&tar.Header{Name: "folder/", Typeflag: tar.TypeDir}), w.WriteHeader(&tar.Header{Name: "last", Typeflag: tar.TypeReg}), w.Close())
		if err != nil {
			t.Fatal(want, err)
		}
		all, err := decodeArchive(&buf)
		if err != nil || len(all) != 3 || all[0].Entry.Unfit != strings.TrimRight(want, " ") || !all[1].Entry.Folder || all[2].Entry.Name != "last" || all[2].Entry.Unfit != "" {
			t.Errorf("%s: %+v, %v", want, all, err)
		}
	}
}

// header makes a tar header by hand.
func header(name string, kind byte, size int64, change func(block []byte)) []byte {
	block := make([]byte, 512)
	copy(block, name)
	copy(block[100:], "0000644\x00")
	copy(block[124:], fmt.Sprintf("%011o\x00", size))
	block[156] = kind
	copy(block[257:], "ustar\x0000")
	if change != nil {
		change(block)
	}
	sum := 8 * int(' ')
	for i, c := range block {
		if i < 148 || i >= 156 {
			sum += int(c)
		}
	}
	copy(block[148:], fmt.Sprintf("%06o\x00 ", sum))
	return block
}

// oldHoles is a file of GNU's old sparse format that has no content and claims so many bytes.
func oldHoles(size int64) []byte {
	return header("x", tar.TypeGNUSparse, 0, func(block []byte) {
		copy(block[257:], "ustar  \x00")
		copy(block[386:], fmt.Sprintf("%011o\x00%011o\x00", 0, 0))
		block[483] = 0x80
		for i := range 8 {
			block[494-i] = byte(size >> (8 * i))
		}
	})
}

// paxHoles is the same of the format in PAX records.
func paxHoles(size int64, kind byte) []byte {
	var records string
	for _, record := range []string{"GNU.sparse.numblocks=1", "GNU.sparse.map=0,0", fmt.Sprint("GNU.sparse.size=", size), "GNU.sparse.name=x"} {
		records += fmt.Sprintf("%d %s\n", len(record)+len("00 \n"), record)
	}
	return slices.Concat(header("x", tar.TypeXHeader, int64(len(records)), nil), []byte(records), make([]byte, 512-len(records)), header("y", kind, 0, nil))
}

// A large tree with few files must bring what a host demands, in an archive as in a list.
func TestAnArchiveIsNeverTooSlow(t *testing.T) {
	for _, c := range []struct {
		files int
		each  time.Duration
	}{{0, time.Hour}, {3, 20 * time.Minute}, {400, 9 * time.Second}} {
		synctest.Test(t, func(t *testing.T) {
			host := newPaced()
			names, want := slowly(c.files, c.each)
			err := wire.EncodeArchive(host, func(yield func(ports.FolderFile, error) bool) {
				for name := range names {
					if !yield(ports.FolderFile{Name: name, File: textFile{strings.NewReader("x"), 1}}, nil) {
						return
					}
				}
			})
			if err != nil || host.tooSlow {
				t.Errorf("%d files: %v, too slow: %t", c.files, err, host.tooSlow)
			}
			all, err := decodeArchive(&host.Buffer)
			var got []string
			for _, one := range all {
				if !one.Entry.Folder {
					got = append(got, one.Entry.Name)
				}
			}
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("%d of %d files came, %v", len(got), len(want), err)
			}
		})
	}
}

// A host that takes nothing ends it, also where no file comes along to notice.
func TestAnArchiveThatNobodyTakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		err := wire.EncodeArchive(noTaker{}, func(yield func(ports.FolderFile, error) bool) { time.Sleep(time.Minute) })
		if err != errTest {
			t.Errorf("it is %v", err)
		}
	})
}

type noTaker struct{}

func (noTaker) Write([]byte) (int, error) { return 0, errTest }

// A wild or a broken archive takes no memory, and any error has its class. What is sound is what it says.
func FuzzDecodeArchive(f *testing.F) {
	for _, seed := range [][]byte{
		archive(), archive("a", "content", "d/ü", "", strings.Repeat("x/", 90)+"y", "!not-found"), archive(".", strings.Repeat("x", 600)), archive("\xff", "!apart"),
		slices.Concat(oldHoles(1<<50), archive("a", "")), slices.Concat(paxHoles(1<<50, tar.TypeReg), archive("a", "")),
		slices.Concat(header("a", tar.TypeReg, 1<<32, nil), archive("b", "")), slices.Concat(header("../a", tar.TypeSymlink, 0, nil), archive()),
		slices.Concat(header("././@LongLink", tar.TypeGNULongName, 5, nil), []byte("/etc\x00"), make([]byte, 507), header("a", '0', 0, nil), archive()),
	} {
		f.Add(seed)
		f.Add(seed[:len(seed)-512])
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := decodeArchive(bytes.NewReader(data))
		if err != nil {
			if !errors.Is(err, domain.ErrInvalidReply) {
				t.Errorf("the error has no class: %v", err)
			}
			return
		}
		var pairs []string
		for _, one := range all {
			if one.Entry.Unfit != "" || one.Entry.Folder || one.Entry.Failure != "" || strings.HasSuffix(one.Entry.Name, "/") {
				continue
			}
			if int64(len(one.Content)) != one.Entry.Size {
				t.Errorf("%q has %d bytes, not the %d that it says", one.Entry.Name, len(one.Content), one.Entry.Size)
			}
			if !strings.HasPrefix(one.Content, "!") {
				pairs = append(pairs, one.Entry.Name, one.Content)
			}
		}
		again, err := decodeArchive(bytes.NewReader(archive(pairs...)))
		if err != nil || len(again)*2 != len(pairs) {
			t.Fatalf("%d of %d files come back, %v", len(again), len(pairs)/2, err)
		}
		for i, one := range again {
			if one.Entry.Name != pairs[2*i] || one.Content != pairs[2*i+1] {
				t.Errorf("%q comes back as %+v", pairs[2*i:2*i+2], one)
			}
		}
	})
}
