package wire_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
)

// paced is a host that gives up who is too slow.
type paced struct {
	bytes.Buffer
	pace    *domain.Pace
	tooSlow bool
}

func newPaced() *paced {
	limits := domain.Defaults()
	return &paced{pace: domain.NewPace(limits.Stall, limits.Floor, time.Now())}
}

func (p *paced) Write(b []byte) (int, error) {
	p.tooSlow = p.tooSlow || p.pace.TooSlow(time.Now())
	p.pace.Got(len(b), time.Now())
	return p.Buffer.Write(b)
}

// slowly yields so many names, each after a while, and takes as long again to see that there are no more.
func slowly(n int, each time.Duration) (iter.Seq2[string, error], []string) {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf("/a/name/%d", i))
	}
	return func(yield func(string, error) bool) {
		for _, name := range all {
			time.Sleep(each)
			if !yield(name, nil) {
				return
			}
		}
		time.Sleep(each)
	}, all
}

// A large tree with few files brought less than a host demands, and so was never listed: three times in
// vain, for as long as each took.
func TestAListIsNeverTooSlow(t *testing.T) {
	for _, c := range []struct {
		names int
		each  time.Duration
	}{{0, time.Hour}, {3, 20 * time.Minute}, {400, 9 * time.Second}, {20_000, 150 * time.Millisecond}} {
		synctest.Test(t, func(t *testing.T) {
			host := newPaced()
			names, all := slowly(c.names, c.each)
			start := time.Now()
			if err := wire.EncodeFiles(host, names); err != nil {
				t.Fatal(err)
			}
			took := time.Since(start)
			if host.tooSlow || host.pace.TooSlow(time.Now()) {
				t.Errorf("%d names, one each %s: the host gave up", c.names, c.each)
			}
			if most := (2<<10)*int(took/time.Second+1) + 64*c.names; host.Len() > most {
				t.Errorf("%d names, one each %s: %d bytes, want %d at most", c.names, c.each, host.Len(), most)
			}
			got, notFound, err := decode(&host.Buffer)
			if err != nil || notFound || !slices.Equal(got, all) {
				t.Errorf("%d names of %d came, notFound %t, %v", len(got), len(all), notFound, err)
			}
		})
	}
}

// What is found fast has nothing between the names, as ever.
func TestAFastListIsNotPadded(t *testing.T) {
	var buf bytes.Buffer
	if err := wire.EncodeFiles(&buf, sequence([]string{"/a", "/b"})); err != nil || strings.Contains(buf.String(), "\n") {
		t.Errorf("%q, %v", buf.String(), err)
	}
}

// A host that hangs up while nothing is found is seen at the next name.
func TestASlowListEndsWithTheWritersError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		own := errors.New("my own")
		names, _ := slowly(2, time.Hour)
		start := time.Now()
		if err := wire.EncodeFiles(refusing{own}, names); err != own || time.Since(start) != time.Hour {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
	})
}

// A guest may send newlines for as long as it takes to find a name; nothing of them is kept, and within a
// name they are as wrong as ever.
func TestDecodeFilesSkipsNewlines(t *testing.T) {
	padding := strings.Repeat("\n", 8<<20)
	for _, piece := range []int{1 << 20, 1} {
		body := io.MultiReader(strings.NewReader(`{"files":[`+padding[:piece]),
			strings.NewReader(padding+`"/a"`), strings.NewReader(padding), strings.NewReader(`,"/b"`+padding+`]}`))
		names, _, err := decode(body)
		if err != nil || !slices.Equal(names, []string{"/a", "/b"}) {
			t.Errorf("%q, %v", names, err)
		}
	}
	for _, body := range []string{"{\"files\":[\"/a\nb\"]}", "{\"files\":[\"/a\n\n\nb\"]}", "{\"files\":[\"/a\" \n\n \"/b\"]}"} {
		if names, _, err := decode(strings.NewReader(body)); !errors.Is(err, domain.ErrInvalidReply) {
			t.Errorf("%q is taken for %q, %v", body, names, err)
		}
	}
}
