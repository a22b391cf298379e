package chiapi_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"testing"

	"github.com/hexworker/metaservice/adapters/rootfolder"
	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

const helloWithTar = `{"version":"2","bootId":"b","os":"linux","arch":"amd64","features":["tar"]}`

// A guest is asked for an archive only once it has named the feature, and its reply is taken by its content
// type alone.
func TestArchives(t *testing.T) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	err := w.WriteHeader(&tar.Header{Name: "d/a", Size: 7})
	if err == nil {
		_, err = w.Write([]byte("content"))
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	s, h := newService(t, nil)
	folder, err := rootfolder.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	collect := func() <-chan host.Collected {
		got := make(chan host.Collected, 1)
		go func() {
			got <- s.Collect(t.Context(), host.Wanted{Path: "/f", Folder: func() (ports.Folder, error) { return folder, nil }}, nil)
		}()
		return got
	}
	nothing := string(wire.EncodeFilesNotFound())

	got := collect() // of a guest of version 1
	action := take(t, h)
	if action.Kind() != domain.KindListFolder {
		t.Errorf("a guest that has named nothing is asked for %s", action)
	}
	ask(t, h, "POST", replyTo(action.ID()), nothing, "Content-Type", "application/json").fine(t, "a list")
	<-got

	ask(t, h, "POST", wire.PathHello, helloWithTar).fine(t, "hello")
	for _, contentType := range []string{"application/x-tar", "Application/X-Tar; charset=binary"} {
		got = collect()
		if action = take(t, h); action.Kind() != domain.KindGetFolder || action.Path() != "/f" {
			t.Fatalf("it is asked for %s", action)
		}
		ask(t, h, "POST", replyTo(action.ID()), archive.String(), "Content-Type", contentType).fine(t, "an archive")
		if c := <-got; c.Err != nil || c.Files != 1 || c.Bytes != 7 {
			t.Errorf("an archive came as %+v", c)
		}
		ask(t, h, "POST", replyTo(action.ID()), archive.String(), "Content-Type", contentType).refused(t, "again", domain.CodeUnknownActionID)
	}

	got = collect()
	ask(t, h, "POST", replyTo(take(t, h).ID()), "", wire.HeaderError, wire.FileNotFound).fine(t, "no folder")
	if c := <-got; !c.Missing || !errors.Is(c.Err, domain.ErrResourceNotFound) {
		t.Errorf("no folder came as %+v", c)
	}

	for what, reply := range map[string][]string{
		"JSON": {nothing, "Content-Type", "application/json"}, "no type": {archive.String()}, "half of it": {archive.String()[:600], "Content-Type", "application/x-tar"},
	} {
		got = collect()
		id := take(t, h).ID()
		ask(t, h, "GET", replyTo(id), "").refused(t, "a wrong method", domain.CodeMethodNotAllowed)
		ask(t, h, "POST", replyTo(id), reply[0], reply[1:]...).refused(t, what, domain.CodeInvalidPayload)
		if action = take(t, h); action.Kind() != domain.KindListFolder {
			t.Errorf("after %s it is asked for %s", what, action)
		}
		ask(t, h, "POST", replyTo(action.ID()), nothing, "Content-Type", "application/json").fine(t, "a list")
		if c := <-got; c.Err == nil {
			t.Errorf("%s came as %+v", what, c)
		}
	}
}
