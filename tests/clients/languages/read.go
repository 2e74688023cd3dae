// A run with Go's standard library alone: go run read.go URL prints its events, one a line, to its end.
package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"
)

func main() {
	at, ended := "", false
	for !ended {
		at, ended = read(os.Args[1]+"?named=false", at)
		time.Sleep(200 * time.Millisecond)
	}
}

// read prints what one connection brings. It returns where it is then, and whether the run has ended.
func read(url, at string) (string, bool) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	silent := time.AfterFunc(30*time.Second, cancel) // no Timeout of the client, which would end a live answer too
	request, _ := http.NewRequestWithContext(ctx, "GET", url, nil)
	request.Header.Set("Accept", "text/event-stream")
	if at != "" {
		request.Header.Set("Last-Event-ID", at)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return at, false // the connection was lost: the next one goes on behind the last event
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusNoContent {
		return at, true // it came back to the end
	}
	frame := map[string]string{}
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 16<<20) // of 64 KiB without, and a larger event is a longer line
	for lines.Scan() {
		silent.Reset(30 * time.Second)
		name, value, _ := strings.Cut(lines.Text(), ":")
		if lines.Text() != "" {
			frame[name] = strings.TrimPrefix(value, " ")
			continue
		}
		if id, found := frame["id"]; found {
			at = id
		}
		_, named := frame["event"]
		if data, found := frame["data"]; found && !named {
			fmt.Println(data)
		}
		if frame["event"] == "control" && strings.Contains(frame["data"], `"streamClosed":true`) {
			return at, true
		}
		frame = map[string]string{}
	}
	return at, false
}
