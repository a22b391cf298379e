package domain_test

import (
	"errors"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hexworker/metaservice/domain"
)

func TestFolderNames(t *testing.T) {
	deep := strings.Repeat("d/", (domain.MaxPath-len("/f/"))/2)
	longest := strings.Repeat("x", domain.MaxName)
	const refused = "\x00" // no name is kept so
	tests := map[string]struct {
		folder string
		names  [][2]string // as told, and relative
	}{
		"Unix": {"/tmp/x", [][2]string{
			{"/tmp/x/a", "a"},
			{"/tmp/x/b/c d/e", "b/c d/e"},
			{"/tmp/x/..a", "..a"},
			{"/tmp/x/a..", "a.."},
			{"/tmp/x/...", "..."},
			{"/tmp/x/.hidden", ".hidden"},
			{"/tmp/x/~", "~"},
			{"/tmp/x/C:/y", "C:/y"},
		}},
		"Unix, outside": {"/tmp/x", [][2]string{
			{"", refused},
			{"a", refused},
			{"/", refused},
			{"/tmp", refused},
			{"/tmp/xy", refused},
			{"/tmp/y/a", refused},
			{"/tmp/X/a", refused},
			{"tmp/x/a", refused},
			{"./tmp/x/a", refused},
			{"//tmp/x/a", refused},
			{"/etc/passwd", refused},
			{`\tmp\x\a`, refused},
		}},
		"Unix, not plain": {"/tmp/x", [][2]string{
			{"/tmp/x/", refused},
			{"/tmp/x//a", refused},
			{"/tmp/x/a/", refused},
			{"/tmp/x/a//b", refused},
			{"/tmp/x/.", refused},
			{"/tmp/x/..", refused},
			{"/tmp/x/../y", refused},
			{"/tmp/x/a/../b", refused},
			{"/tmp/x/a/./b", refused},
			{"/tmp/x/a/..", refused},
			{"/tmp/../tmp/x/a", refused},
		}},
		"kept exactly": {"/tmp/x", [][2]string{
			{"/tmp/x/a\nb", "a\nb"},
			{"/tmp/x/\x1b[2J", "\x1b[2J"},
			{"/tmp/x/\xff\xfe", "\xff\xfe"},
			{"/tmp/x/e\u0301", "e\u0301"}, // not made one rune
			{"/tmp/x/\u00e9", "\u00e9"},
			{`/tmp/x/a\b`, `a\b`},
			{`/tmp/x/..\..\a`, `..\..\a`},
			{"/tmp/x/ ", " "},
		}},
		"NUL": {"/tmp/x", [][2]string{
			{"/tmp/x/a\x00", refused},
			{"/tmp/x/\x00/../../etc/passwd", refused},
			{"/tmp/x\x00", refused},
		}},
		"as long as can be": {"/f", [][2]string{
			{"/f/" + longest, longest},
			{"/f/" + longest + "x", refused},
			{"/f/" + longest + "/a", longest + "/a"},
			{"/f/a/" + longest + "x/b", refused},
			{"/f/" + deep + "d", deep + "d"},
			{"/f/" + deep + "dx", refused},
		}},
		"told twice": {"/tmp/x", [][2]string{
			{"/tmp/x/a", "a"},
			{"/tmp/x/b", "b"},
			{"/tmp/x/a", refused},
			{"/tmp/x/A", "A"},
		}},
		"the root": {"/", [][2]string{
			{"/a", "a"},
			{"/etc/passwd", "etc/passwd"},
			{"//a", refused},
			{"/../a", refused},
			{"a", refused},
		}},
		"the task's folder": {".", [][2]string{
			{"a", "a"},
			{"b/c", "b/c"},
			{"./a", refused},
			{"../a", refused},
			{"..", refused},
			{"/etc/passwd", refused},
		}},
		"with a slash":     {"./", [][2]string{{"a", "a"}, {"/a", refused}}},
		"without any path": {"", [][2]string{{"", refused}, {"a", "a"}, {"/a", refused}}},
		"a relative folder": {"out/x", [][2]string{
			{"out/x/a", "a"},
			{"/out/x/a", refused},
			{"a", refused},
			{"out/x/../a", refused},
		}},
		"written with a dot":        {"./out/x", [][2]string{{"out/x/a", "a"}, {"./out/x/b", refused}}},
		"with slashes at its end":   {"/tmp/x//", [][2]string{{"/tmp/x/a", "a"}, {"/tmp/x//b", refused}}},
		"with a dot at its end":     {"/tmp/x/.", [][2]string{{"/tmp/x/a", "a"}}},
		"with detours":              {"/tmp//y/../x", [][2]string{{"/tmp/x/a", "a"}, {"/tmp/y/a", refused}}},
		"one above":                 {"../x", [][2]string{{"../x/a", "a"}, {"x/a", refused}, {"../y", refused}, {"../x/../../b", refused}}},
		"a file":                    {"/tmp/x", [][2]string{{"/tmp/x", "."}}},
		"a file, told as asked":     {"/tmp//x", [][2]string{{"/tmp//x", "."}}},
		"a file, told cleaned":      {"/tmp//x", [][2]string{{"/tmp/x", "."}}},
		"a file in two writings":    {"./x", [][2]string{{"./x", "."}, {"x", refused}}},
		"a file holds none":         {"/tmp/x", [][2]string{{"/tmp/x", "."}, {"/tmp/x", refused}, {"/tmp/x/a", refused}}},
		"what holds one is no file": {"/tmp/x", [][2]string{{"/tmp/x/a", "a"}, {"/tmp/x", refused}, {"/tmp/x/b", "b"}}},
		"Windows": {`C:\tmp\x`, [][2]string{
			{`C:\tmp\x\a`, "a"},
			{`C:\tmp\x\b\c d`, "b/c d"},
			{`C:\tmp\x\..\a`, refused},
			{`C:\tmp\x\a\`, refused},
			{`C:\tmp\x\\a`, refused},
			{`C:\tmp\x\.`, refused},
			{`C:\tmp\x/a`, refused},
			{`C:\tmp\x\d/e`, refused},
			{`C:\tmp\x\../../e`, refused},
			{`C:\tmp\xy`, refused},
			{`D:\tmp\x\a`, refused},
			{`\tmp\x\a`, refused},
			{`/tmp/x/a`, refused},
			{`a`, refused},
		}},
		"Windows, with slashes":      {`c:/tmp/x/`, [][2]string{{`c:\tmp\x\a`, "a"}, {`c:/tmp/x/b`, refused}}},
		"Windows, with detours":      {`C:\tmp\.\y\..\\x`, [][2]string{{`C:\tmp\x\a`, "a"}, {`C:\tmp\y\a`, refused}}},
		"Windows, above the top":     {`C:\..\x`, [][2]string{{`C:\x\a`, "a"}}},
		"Windows, a file":            {`C:\tmp\x`, [][2]string{{`C:\tmp\x`, "."}}},
		"Windows, a file as asked":   {`C:/tmp/x`, [][2]string{{`C:/tmp/x`, "."}, {`C:\tmp\x`, refused}}},
		"a drive":                    {`C:\`, [][2]string{{`C:\a`, "a"}, {`C:\b\c`, "b/c"}, {`C:d`, refused}, {`C:\..\e`, refused}}},
		"a drive's current folder":   {`C:`, [][2]string{{`C:a`, "a"}, {`C:b\c`, "b/c"}, {`C:\d`, refused}, {`C:..\e`, refused}}},
		"a share":                    {`\\server\share`, [][2]string{{`\\server\share\a`, "a"}, {`\\server\other\a`, refused}, {`\\server\share\..\a`, refused}}},
		"a share's root":             {`\\server\share\`, [][2]string{{`\\server\share\a`, "a"}}},
		"a folder in a share":        {`\\server\share\x\`, [][2]string{{`\\server\share\x\a`, "a"}, {`\\server\share\x\..\b`, refused}, {`\\server\share\b`, refused}}},
		"above a share":              {`\\server\share\..\..\x`, [][2]string{{`\\server\share\x\a`, "a"}, {`\\server\x\a`, refused}}},
		"a server":                   {`\\server`, [][2]string{{`\\server\share\a`, "share/a"}, {`\\other\a`, refused}}},
		"a long Windows path":        {`\\?\C:\x`, [][2]string{{`\\?\C:\x\a`, "a"}, {`C:\x\a`, refused}}},
		"no drive, but a Unix name":  {"C:x", [][2]string{{"C:x/a", "a"}, {`C:x\a`, refused}}},
		"no letter, but a Unix name": {"1:", [][2]string{{"1:/a", "a"}, {"1:a", refused}}},
		"a backslash, but Unix":      {`\x`, [][2]string{{`\x/a\b`, `a\b`}, {`\x\a`, refused}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			names := domain.NewFolderNames(test.folder)
			for _, told := range test.names {
				got, err := names.Take(told[0])
				if told[1] != refused {
					if err != nil || got != told[1] {
						t.Errorf("%q is kept as %q, not %q: %v", told[0], got, told[1], err)
					}
					continue
				}
				if !errors.Is(err, domain.ErrRefusedName) || got != "" {
					t.Errorf("%q is kept as %q: %v", told[0], got, err)
				} else if !strings.HasPrefix(err.Error(), "refused name "+domain.Quote(told[0])+": ") {
					t.Errorf("the error %q does not tell which", err)
				}
			}
		})
	}
}

// A name that was refused leaves no trace: it is refused for the same reason again, and takes nobody's
// place.
func TestFolderNamesForgetTheRefused(t *testing.T) {
	names := domain.NewFolderNames("/tmp/x")
	_, first := names.Take("/tmp/x/../a")
	_, again := names.Take("/tmp/x/../a")
	if first == nil || again == nil || first.Error() != again.Error() {
		t.Errorf("%v, then %v", first, again)
	}
	if got, err := names.Take("/tmp/x"); got != "." || err != nil {
		t.Errorf("the file itself is %q, %v", got, err)
	}
}

// A name that is told relative to the folder is kept as Take keeps the whole, and leads nowhere else.
func TestRelativeNames(t *testing.T) {
	longest := strings.Repeat("x", domain.MaxName)
	for folder, names := range map[string]map[string]string{ // and the path to ask for; none is refused
		"/tmp/x": {
			"a": "/tmp/x/a", "b/c d": "/tmp/x/b/c d", "..a": "/tmp/x/..a", `a\b`: `/tmp/x/a\b`, "\xff": "/tmp/x/\xff", longest: "/tmp/x/" + longest,
			"": "", "..": "", "../x": "", "a/../b": "", "./a": "", "/a": "", "/tmp/x/c": "/", "a/": "", "a//b": "", "a\x00": "", longest + "x": "",
			strings.Repeat("d/", 2048) + "x": "",
		},
		"/":       {"a": "/a", "": "", "/": "", "//": ""},
		"/x/./":   {"./": "", "./a": ""},
		"out/../": {"a": "a", "out": "out"},
		`C:\x`:    {"a/b": `C:\x\a\b`, `a\b`: "", `..\x`: "", `a/..\..\x`: ""},
		"C:":      {"a": "C:a"},
	} {
		taken := domain.NewFolderNames(folder)
		for name, want := range names {
			file, err := taken.TakeRelative(name)
			if want == "/" { // an absolute one has an empty part
				want = ""
			}
			if want == "" {
				if !errors.Is(err, domain.ErrRefusedName) || file != (domain.ListedFile{}) || taken.Has(name) {
					t.Errorf("%q in %q is %+v, %v", name, folder, file, err)
				}
				continue
			}
			if err != nil || file != (domain.ListedFile{Path: want, Relative: name}) || !taken.Has(name) {
				t.Errorf("%q in %q is %+v, %v", name, folder, file, err)
			}
			if relative, err := domain.NewFolderNames(folder).Take(file.Path); err != nil || relative != name {
				t.Errorf("%q in %q is asked for by %q, which is %q, %v", name, folder, file.Path, relative, err)
			}
			if _, err := taken.TakeRelative(name); !errors.Is(err, domain.ErrRefusedName) {
				t.Errorf("%q in %q is kept twice, %v", name, folder, err)
			}
		}
	}
	names := domain.NewFolderNames("/tmp/x/")
	if file, err := names.TakeRelative("."); err != nil || file != (domain.ListedFile{Path: "/tmp/x/", Relative: "."}) {
		t.Errorf("the file itself is %+v, %v", file, err)
	}
	if _, err := names.TakeRelative("a"); !errors.Is(err, domain.ErrRefusedName) {
		t.Errorf("a file holds another, %v", err)
	}
}

// A name that can't be kept was counted twice where two lists of a folder told it.
func TestListingsOfOneFolder(t *testing.T) {
	var few, many domain.Listing
	for range 5 {
		few.Refuse(domain.ErrRefusedName)
	}
	for range 20 {
		many.Refuse(domain.ErrInvalidReply)
	}
	for _, pair := range [][2]domain.Listing{{few, many}, {many, few}} {
		one := pair[0]
		one.Account(pair[1])
		if one.Refused != 20 || len(one.Reasons) != 8 || one.Reasons[0] != domain.ErrInvalidReply {
			t.Errorf("%d names are refused, for %v", one.Refused, one.Reasons)
		}
	}
}

func TestListing(t *testing.T) {
	file := func(relative string) domain.ListedFile {
		return domain.ListedFile{Path: "/x/" + relative, Relative: relative}
	}
	tests := map[string]struct {
		files  []domain.ListedFile
		isFile bool
	}{
		"empty":             {nil, false},
		"a file":            {[]domain.ListedFile{file(".")}, true},
		"a folder with one": {[]domain.ListedFile{file("a")}, false},
		"a folder with two": {[]domain.ListedFile{file("a"), file("b")}, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if l := (domain.Listing{Files: test.files}); l.IsFile() != test.isFile {
				t.Errorf("is a file: %v", l.IsFile())
			}
		})
	}
}

func TestListingCountsAllThatWereRefused(t *testing.T) {
	var l domain.Listing
	var first []error
	for range 1000 {
		err := errors.New("refused")
		if len(first) < 8 {
			first = append(first, err)
		}
		l.Refuse(err)
	}
	if l.Refused != 1000 || !slices.Equal(l.Reasons, first) {
		t.Errorf("%d were refused, for %d reasons: %v", l.Refused, len(l.Reasons), l.Reasons)
	}
}

// Whatever folder was asked for and whatever a guest calls a name in it: what is kept of the name
// stays below the folder that it is joined to, and is the name that was told.
func FuzzFolderNames(f *testing.F) {
	for _, folder := range []string{"/tmp/x", "/", ".", "", "./out/", "../x", "/tmp//x/.", `C:\x`, "c:/x/", `C:`, `\\server\share\x`, `\\`, "\\\\a\\\\b", "//a"} {
		for _, name := range []string{"", ".", "..", "a", "a/../../b", "a\nb", "a\xffb", "a\x00b", `a\b`, `..\..\a`, `a\..\b`, "/etc/passwd", strings.Repeat("x", 256), strings.Repeat("x/", 2048)} {
			f.Add(folder, name)
			f.Add(folder, folder+name)
			f.Add(folder, folder+"/"+name)
			f.Add(folder, folder+`\`+name)
		}
	}
	f.Fuzz(func(t *testing.T, folder, name string) {
		if file, err := domain.NewFolderNames(folder).TakeRelative(name); err == nil && name != "." && !strings.Contains(folder, "\x00") { // which nobody can ask for
			if got := path.Join("/made/up", name); file.Relative != name || got != "/made/up/"+name {
				t.Fatalf("%q leads to %q, and is kept as %q", name, got, file.Relative)
			}
			if again, err := domain.NewFolderNames(folder).Take(file.Path); err != nil && len(file.Path) <= domain.MaxPath || err == nil && again != name {
				t.Fatalf("%q in %q is asked for by %q, which is %q: %v", name, folder, file.Path, again, err)
			}
		}
		names := domain.NewFolderNames(folder)
		relative, err := names.Take(name)
		if err != nil {
			if !errors.Is(err, domain.ErrRefusedName) || relative != "" {
				t.Fatalf("%q in %q is %q: %v", name, folder, relative, err)
			}
			return
		}
		if _, err := names.Take(name); !errors.Is(err, domain.ErrRefusedName) {
			t.Fatalf("%q in %q is kept twice: %v", name, folder, err)
		}
		if relative == "." { // the file that was asked for, in either writing
			if name == folder || name == path.Clean(folder) {
				return
			}
			slashed := strings.NewReplacer(`\`, "/")
			windows := strings.HasPrefix(folder, `\\`) || len(folder) > 1 && folder[1] == ':'
			if above := strings.Contains(folder, ".."); !windows || !above && path.Clean(slashed.Replace(name)) != path.Clean(slashed.Replace(folder)) {
				t.Fatalf("%q is not the file %q", name, folder)
			}
			return
		}
		const target = "/made/up"
		parts := strings.Split(relative, "/")
		if path.IsAbs(relative) || slices.Contains(parts, "..") || slices.Contains(parts, ".") || slices.Contains(parts, "") || strings.Contains(relative, "\x00") {
			t.Fatalf("%q in %q is %q, no plain relative path", name, folder, relative)
		}
		if got := path.Join(target, relative); got != target+"/"+relative {
			t.Fatalf("%q in %q is %q, which leads to %q", name, folder, relative, got)
		}
		if slices.ContainsFunc(parts, func(part string) bool { return len(part) > domain.MaxName }) || len(relative) > domain.MaxPath {
			t.Fatalf("%q in %q is too long", name, folder)
		}
		if path.Join(folder, relative) == name {
			return // on Unix
		}
		prefix, below := strings.CutSuffix(name, strings.ReplaceAll(relative, "/", `\`))
		if !below || !strings.HasSuffix(prefix, `\`) && !strings.HasSuffix(prefix, ":") {
			t.Fatalf("%q in %q is %q, which was not told", name, folder, relative)
		}
		// Asked for by that prefix, the folder is the same, and so is the name in it.
		if again, err := domain.NewFolderNames(prefix).Take(name); err != nil || again != relative {
			t.Fatalf("%q in %q is %q, in %q it is %q: %v", name, folder, relative, prefix, again, err)
		}
		if plain := strings.ReplaceAll(folder, "/", `\`); !strings.Contains(plain, `.`) && !strings.Contains(plain[min(2, len(plain)):], `\\`) {
			if diff := cmp.Diff(strings.TrimRight(plain, `\`), strings.TrimRight(prefix, `\`)); diff != "" {
				t.Fatalf("%q is in another folder than %q:\n%s", name, folder, diff)
			}
		}
	})
}
