//go:build linux

package threats

import (
	"archive/tar"
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
)

func init() { register("hostile archives", hostileArchive) }

// archiveEntries is how many entries an archive may have, for the host of the corpus.
const archiveEntries = 20_000

// hostileTar is one archive of the corpus.
type hostileTar struct {
	parts []string // one after the other
	files int      // that may come of it
	sound bool     // nobody has to be told of anything
}

const tarEnd = "END" // of an archive

// entry makes a tar header by hand, and what follows it: nothing is checked.
func entry(name string, kind byte, content string, change ...func(block []byte)) string {
	block := make([]byte, 512)
	copy(block[:100], name)
	copy(block[100:], "0000644\x00")
	copy(block[124:], fmt.Sprintf("%011o\x00", len(content)))
	block[156] = kind
	copy(block[257:], "ustar\x0000")
	for _, f := range change {
		f(block)
	}
	sum := 8 * int(' ')
	for i, c := range block {
		if i < 148 || i >= 156 {
			sum += int(c)
		}
	}
	copy(block[148:], fmt.Sprintf("%06o\x00 ", sum))
	return string(block) + content + strings.Repeat("\x00", (512-len(content)%512)%512)
}

// records are PAX records, as the content of their header.
func records(pairs ...string) string {
	var text strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		record := " " + pairs[i] + "=" + pairs[i+1] + "\n"
		n := len(record)
		for n != len(record)+len(fmt.Sprint(n)) {
			n = len(record) + len(fmt.Sprint(n))
		}
		fmt.Fprint(&text, n, record)
	}
	return text.String()
}

func pax(pairs ...string) string { return entry("pax", tar.TypeXHeader, records(pairs...)) }

func longName(name string) string { return entry("././@LongLink", tar.TypeGNULongName, name+"\x00") }

func file(name string) string {
	before := ""
	if len(name) > 100 {
		before = longName(name)
	}
	return before + entry(name, tar.TypeReg, "hostile")
}

// link makes a link of a kind to somewhere.
func link(name, to string, kind byte) string {
	before := ""
	if len(to) > 100 {
		before = entry("././@LongLink", tar.TypeGNULongLink, to+"\x00")
	}
	return before + entry(name, kind, "", func(block []byte) { copy(block[157:257], to) })
}

// saysSize has a header claim so many bytes, in octal or in base 256.
func saysSize(text string) func([]byte) { return func(block []byte) { copy(block[124:136], text) } }

// oldSparse is a file of GNU's old format with holes: no content, and a claim of 1 PiB.
func oldSparse(name string) string {
	return entry(name, tar.TypeGNUSparse, "", func(block []byte) {
		copy(block[257:], "ustar  \x00")
		copy(block[386:], "00000000000\x0000000000000\x00")
		copy(block[483:], "\x80\x00\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00")
	})
}

const pebibyte = "1125899906842624"

// hostileTars are the archives, by what they try. out is a folder of the host's.
func hostileTars(out string) map[string]hostileTar {
	return map[string]hostileTar{
		"dots":                    {parts: []string{file("../x"), file("a/../../x"), file(".."), file("./../x"), file("good"), tarEnd}, files: 1},
		"absolute":                {parts: []string{file("/etc/x"), file(out + "/x"), file("/" + out + "/x"), file("/"), file("good"), tarEnd}, files: 1},
		"a link, written through": {parts: []string{link("out", out, tar.TypeSymlink), file("out/x"), link("up", "..", tar.TypeSymlink), file("up/x"), tarEnd}, files: 2},
		"a hard link out":         {parts: []string{link("precious", out+"/precious", tar.TypeLink), file("precious"), tarEnd}, files: 1},
		"planted links":           {parts: []string{file("absolute/x"), file("parent/outside/x"), file("dangling/x"), file("magic/x"), file("chain/x"), file("loop/x"), tarEnd}},
		"planted links to files":  {parts: []string{file("file"), file("absolutefile"), file("magicfd"), tarEnd}, files: 3, sound: true},
		"devices":                 {parts: []string{link("null", "", tar.TypeChar), link("disk", "", tar.TypeBlock), link("pipe", "", tar.TypeFifo), file("good"), tarEnd}, files: 1},
		"a FIFO that is there":    {parts: []string{file("fifo"), file("fifo/x"), tarEnd}, files: 1},
		"old holes":               {parts: []string{oldSparse("bomb"), file("good"), tarEnd}, files: 1},
		"holes in records": {parts: []string{pax("GNU.sparse.major", "0", "GNU.sparse.minor", "1", "GNU.sparse.numblocks", "1", "GNU.sparse.map", "0,0",
			"GNU.sparse.size", pebibyte, "GNU.sparse.name", "../x"), entry("bomb", tar.TypeReg, ""), file("good"), tarEnd}, files: 1},
		"holes in the content": {parts: []string{pax("GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.realsize", pebibyte, "GNU.sparse.name", "bomb"),
			entry("bomb", tar.TypeReg, "1\n0\n0\n"+strings.Repeat("\x00", 506)), file("good"), tarEnd}, files: 1},
		"another path in records":     {parts: []string{pax("path", "../../x"), file("good"), pax("path", out+"/x"), file("better"), tarEnd}},
		"a link in records":           {parts: []string{pax("linkpath", out), link("x", "a", tar.TypeSymlink), file("x/y"), tarEnd}, files: 1},
		"another size in records":     {parts: []string{pax("size", "3"), file("short"), file("good"), tarEnd}, files: 2, sound: true},
		"a huge size in records":      {parts: []string{pax("size", "9223372036854775807"), file("huge"), tarEnd}},
		"a negative size in records":  {parts: []string{pax("size", "-1"), file("negative"), file("x"), tarEnd}},
		"records for all":             {parts: []string{entry("g", tar.TypeXGlobalHeader, records("path", "../x", "size", "1")), file("good"), tarEnd}, files: 1},
		"records without end":         {parts: []string{entry("x", tar.TypeXHeader, "99999999 path=x\n"), file("x"), tarEnd}},
		"records with NUL":            {parts: []string{pax("path", "x\x00/../y"), file("x"), tarEnd}},
		"records for nothing":         {parts: []string{strings.Repeat(pax("comment", strings.Repeat("x", 100_000)), 100), file("good"), tarEnd}},
		"a long name":                 {parts: []string{longName("../" + strings.Repeat("x", 150)), file("x"), longName(out + "/x"), file("y"), longName("a/./b"), file("z"), tarEnd}},
		"a name that is too long":     {parts: []string{longName(strings.Repeat("x", 256)), file("x"), longName(strings.Repeat("d/", 2100)), file("y"), file("good"), tarEnd}, files: 1},
		"a long name without end":     {parts: []string{entry("././@LongLink", tar.TypeGNULongName, strings.Repeat("x", 2<<20)), file("good"), tarEnd}},
		"NUL in a name":               {parts: []string{file("good\x00/../../x"), tarEnd}, files: 1, sound: true}, // which ends it
		"the same twice":              {parts: []string{file("a"), file("a"), file("A"), tarEnd}, files: 2},
		"a file that is a folder":     {parts: []string{file("a"), file("a/b"), file("d/e"), file("d"), tarEnd}, files: 2},
		"a file that is the folder":   {parts: []string{file("good"), file("."), tarEnd}, files: 1},
		"the folder that is a file":   {parts: []string{file("."), file("good"), tarEnd}, files: 1},
		"a folder with content":       {parts: []string{entry("d/", tar.TypeDir, "hostile"), tarEnd}},
		"parts that aren't plain":     {parts: []string{file("x/"), file("a//b"), file("./y"), file("z/."), file(""), tarEnd}},
		"names of our own":            {parts: []string{file(".metaservice-x"), file("-rf"), file("~"), file("x\ny\x1b[31m"), file(`..\x`), tarEnd}, files: 5, sound: true},
		"unknown types":               {parts: []string{entry("x", 'Z', "hostile"), entry("y", tar.TypeCont, "hostile"), entry("z", 0xff, "hostile"), file("good"), tarEnd}, files: 1},
		"a wrong checksum":            {parts: []string{file("good"), strings.Replace(file("bad"), "0000644", "0000777", 1), tarEnd}, files: 1},
		"a header that is cut":        {parts: []string{file("good"), file("bad")[:300]}, files: 1},
		"a content that is cut":       {parts: []string{file("good"), file("bad")[:515]}, files: 1},
		"a large content that is cut": {parts: []string{file("good"), entry("bad", tar.TypeReg, strings.Repeat("hostile", 100_000))[:500_000]}, files: 1},
		"no end":                      {parts: []string{file("good")}, files: 1},
		"half an end":                 {parts: []string{file("good"), strings.Repeat("\x00", 512)}, files: 1},
		"half an end, and more":       {parts: []string{file("good"), strings.Repeat("\x00", 512), file("../x"), tarEnd}, files: 1},
		"more after the end":          {parts: []string{file("good"), tarEnd, file("../x"), tarEnd}, files: 1},
		"zeros after the end":         {parts: []string{file("good"), tarEnd, strings.Repeat("\x00", 8<<10)}, files: 1, sound: true},
		"zeros without end":           {parts: []string{file("good"), tarEnd, strings.Repeat("\x00", 8<<20)}, files: 1},
		"nothing":                     {},
		"no archive":                  {parts: []string{strings.Repeat("hostile ", 10_000)}},
		"a huge size":                 {parts: []string{file("good"), entry("huge", tar.TypeReg, "", saysSize("77777777777\x00")), tarEnd}, files: 1},
		"a huger size":                {parts: []string{file("good"), entry("huge", tar.TypeReg, "", saysSize("\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff")), tarEnd}, files: 1},
		"a negative size":             {parts: []string{file("good"), entry("bad", tar.TypeReg, "", saysSize("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")), tarEnd}, files: 1},
		"a size that is none":         {parts: []string{file("good"), entry("bad", tar.TypeReg, "", saysSize("0000000000x\x00")), tarEnd}, files: 1},
		"empty entries without end":   {parts: []string{strings.Repeat(entry("a", tar.TypeReg, ""), archiveEntries+1)}, files: 1},
		"folders without end":         {parts: []string{strings.Repeat(entry("a/", tar.TypeDir, ""), archiveEntries+1)}},
		"failures that can't be":      {parts: []string{pax("METASERVICE.error", "../x\x1b[31m"), file("bad"), pax("METASERVICE.error", "not-found"), entry("../y", tar.TypeReg, ""), file("good"), tarEnd}, files: 1},
		"large content for nobody":    {parts: []string{entry("../x", tar.TypeReg, strings.Repeat("hostile", 100_000)), file("good"), tarEnd}, files: 1},
	}
}

// hostileArchive is the guest of hostileTars: the path that it is asked for ends with the archive's name. It
// knows nothing but archives.
func hostileArchive(r *raid) error {
	r.Address = r.Args["address"]
	if err := r.hello("1", domain.FeatureTar); err != nil {
		return err
	}
	r.say("hello")
	tars := hostileTars(r.Args["outside"])
	for {
		action, err := r.poll()
		if r.over() {
			return nil
		}
		if err != nil {
			return err
		}
		switch action.Type {
		case "get-folder":
			var data bytes.Buffer
			for _, part := range tars[strings.TrimPrefix(action.Path, "/archives/")].parts {
				if part == tarEnd {
					part = strings.Repeat("\x00", 1024)
				}
				data.WriteString(part)
			}
			// What the host has refused by its head it need not read to its end.
			r.ask(slices.Concat([]byte(reply(action.ID)+"Content-Type: application/x-tar\r\n"+sized(int64(data.Len()))), data.Bytes()))
			r.count("archives", 1)
		case "list-folder":
			list := wire.EncodeFilesNotFound()
			if _, err := r.ask(slices.Concat([]byte(reply(action.ID)+"Content-Type: application/json\r\n"+sized(int64(len(list)))), list)); err != nil {
				return err
			}
		}
	}
}
