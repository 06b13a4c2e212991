package gateway_test

import (
	"bufio"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/granary-dev/granary/gateway"
)

// TestCloudEventsCutShort: a request whose body does not come whole is never answered as a success.
func TestCloudEventsCutShort(t *testing.T) {
	n := start(t, func(o *gateway.Options) { o.Limits.BodyTimeout = 500 * time.Millisecond })
	const head = "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/cloudevents+json\r\n"
	for _, test := range []struct {
		name, text string
		pause      time.Duration // behind the first bytes, so that the time to write lies behind that to read
		hangUp     bool
		status     int
	}{
		{"a bad chunk", head + "Transfer-Encoding: chunked\r\n\r\nZZZ\r\n", 0, false, http.StatusBadRequest},
		{"half closed", head + "Content-Length: 100\r\n\r\n{\"spec", 0, true, http.StatusBadRequest},
		{"stalls", head + "Content-Length: 100\r\n\r\n{\"spec", 200 * time.Millisecond, false, http.StatusGatewayTimeout},
	} {
		c, err := net.Dial("tcp", n.addr)
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range []string{test.text[:4], test.text[4:]} {
			if _, err := c.Write([]byte(part)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(test.pause)
		}
		if test.hangUp {
			if err := c.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		_ = res.Body.Close()
		if res.StatusCode != test.status {
			t.Errorf("%s: answered %s, want %d", test.name, res.Status, test.status)
		}
		_ = c.Close()
	}
}
