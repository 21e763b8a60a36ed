// Streamclient is the published clients of streaming, without a kubelet around them: the
// executors and the port forwarder's dialers of client-go, and moby/spdystream by itself.
// tests/conformance/streaming.py builds and runs it against crisp's streaming server.
//
//	streamclient exec      [-transport T] [-protocols P,Q] [-tty] [-no-stdin] URL < stdin > stdout
//	streamclient echo      [-transport T] [-bytes N] URL          through exec, checked by a sum
//	streamclient forward   [-transport T] [-bytes N] [-connections N] [-port P] [-reset] URL
//	streamclient raw       [-bytes N] [-early] URL                spdystream over a plain socket
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"math/rand"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moby/spdystream"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
)

var (
	flags       = flag.NewFlagSet("streamclient", flag.ExitOnError)
	transport   = flags.String("transport", "spdy", "spdy or websocket")
	protocols   = flags.String("protocols", "", "versions to offer, in order")
	tty         = flags.Bool("tty", false, "with a terminal")
	noStdin     = flags.Bool("no-stdin", false, "without stdin")
	stderr      = flags.Bool("stderr", false, "with stderr")
	size        = flags.Int64("bytes", 1<<20, "to send through")
	connections = flags.Int("connections", 1, "at the same time")
	port        = flags.Int("port", 80, "to forward to")
	reset       = flags.Bool("reset", false, "reset another connection meanwhile")
	early       = flags.Bool("early", false, "send the first frames together with the request")
	hold        = flags.Bool("hold", false, "wait for a second before the first read")
)

func main() {
	if len(os.Args) < 2 {
		fail(errors.New("which command?"))
	}
	flags.Parse(os.Args[2:])
	target, err := url.Parse(flags.Arg(0))
	if err != nil {
		fail(err)
	}
	commands := map[string]func(*url.URL) error{"exec": runExec, "echo": runEcho, "forward": runForward, "raw": runRaw}
	if err := commands[os.Args[1]](target); err != nil {
		fail(err)
	}
}

func fail(err error) {
	var code exec.CodeExitError
	if errors.As(err, &code) {
		os.Exit(code.Code)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(125)
}

func config() *rest.Config {
	return &rest.Config{TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
}

func executor(target *url.URL) (remotecommand.Executor, error) {
	var offered []string
	if *protocols != "" {
		offered = strings.Split(*protocols, ",")
	}
	switch {
	case *transport == "websocket" && offered != nil:
		return remotecommand.NewWebSocketExecutorForProtocols(config(), "GET", target.String(), offered...)
	case *transport == "websocket":
		return remotecommand.NewWebSocketExecutor(config(), "GET", target.String())
	case offered == nil:
		return remotecommand.NewSPDYExecutor(config(), "POST", target)
	}
	wrapper, upgrader, err := spdy.RoundTripperFor(config())
	if err != nil {
		return nil, err
	}
	return remotecommand.NewSPDYExecutorForProtocols(wrapper, upgrader, "POST", target, offered...)
}

type sizes struct{ left []remotecommand.TerminalSize }

func (s *sizes) Next() *remotecommand.TerminalSize {
	if len(s.left) == 0 {
		return nil
	}
	next := s.left[0]
	s.left = s.left[1:]
	return &next
}

func runExec(target *url.URL) error {
	chosen, err := executor(target)
	if err != nil {
		return err
	}
	options := remotecommand.StreamOptions{Stdout: os.Stdout, Tty: *tty}
	if !*noStdin {
		options.Stdin = os.Stdin
	}
	if *tty {
		options.TerminalSizeQueue = &sizes{[]remotecommand.TerminalSize{{Width: 80, Height: 24}, {Width: 132, Height: 50}}}
	}
	if *stderr {
		options.Stderr = os.Stderr
	}
	return chosen.StreamWithContext(context.Background(), options)
}

// noise is so many bytes that repeat only after a megabyte, and their sum, which costs next to nothing.
type noise struct {
	block []byte
	left  int64
	at    int
	sum   hash.Hash
}

func newNoise(size int64) *noise {
	block := make([]byte, 1<<20-7)
	rand.New(rand.NewSource(size)).Read(block)
	return &noise{block: block, left: size, sum: crc32.New(crc32.MakeTable(crc32.Castagnoli))}
}

func (n *noise) Read(into []byte) (int, error) {
	if n.left == 0 {
		return 0, io.EOF
	}
	count := copy(into, n.block[n.at:])
	if int64(count) > n.left {
		count = int(n.left)
	}
	n.sum.Write(into[:count])
	n.left -= int64(count)
	n.at = (n.at + count) % len(n.block)
	return count, nil
}

type sink struct {
	sum   hash.Hash
	count int64
}

func newSink() *sink { return &sink{sum: crc32.New(crc32.MakeTable(crc32.Castagnoli))} }

func (s *sink) Write(data []byte) (int, error) {
	if s.count == 0 && *hold {
		time.Sleep(time.Second)
	}
	s.sum.Write(data)
	s.count += int64(len(data))
	return len(data), nil
}

func same(sent *noise, got *sink, total int64) error {
	if got.count != total || !bytes.Equal(sent.sum.Sum(nil), got.sum.Sum(nil)) {
		return fmt.Errorf("%d of %d bytes came back, or not the same", got.count, total)
	}
	return nil
}

func tell(total int64, began time.Time) error {
	seconds := time.Since(began).Seconds()
	return json.NewEncoder(os.Stdout).Encode(map[string]any{"bytes": total, "seconds": seconds, "MBps": float64(total) / seconds / 1e6})
}

func runEcho(target *url.URL) error {
	chosen, err := executor(target)
	if err != nil {
		return err
	}
	sent, got, began := newNoise(*size), newSink(), time.Now()
	options := remotecommand.StreamOptions{Stdin: sent, Stdout: got}
	if err := chosen.StreamWithContext(context.Background(), options); err != nil {
		return err
	}
	if err := same(sent, got, *size); err != nil {
		return err
	}
	return tell(*size, began)
}

func dial(target *url.URL) (httpstream.Connection, error) {
	if *transport == "websocket" {
		dialer, err := portforward.NewSPDYOverWebsocketDialer(target, config())
		if err != nil {
			return nil, err
		}
		connection, _, err := dialer.Dial("portforward.k8s.io")
		return connection, err
	}
	wrapper, upgrader, err := spdy.RoundTripperFor(config())
	if err != nil {
		return nil, err
	}
	connection, _, err := spdy.NewDialer(upgrader, &http.Client{Transport: wrapper}, "POST", target).Dial("portforward.k8s.io")
	return connection, err
}

func openPair(connection httpstream.Connection, request int) (data, failure httpstream.Stream, err error) {
	headers := http.Header{}
	headers.Set("streamType", "error")
	headers.Set("port", strconv.Itoa(*port))
	headers.Set("requestID", strconv.Itoa(request))
	if failure, err = connection.CreateStream(headers); err != nil {
		return nil, nil, err
	}
	failure.Close()
	headers.Set("streamType", "data")
	data, err = connection.CreateStream(headers)
	return data, failure, err
}

// through sends so many bytes and wants them back; the far end closes after we have.
func through(connection httpstream.Connection, request int, total int64) error {
	data, failure, err := openPair(connection, request)
	if err != nil {
		return err
	}
	sent, got := newNoise(total), newSink()
	go func() {
		io.Copy(data, sent)
		data.Close()
	}()
	_, err = io.Copy(got, data)
	said, _ := io.ReadAll(failure)
	if len(said) > 0 {
		return errors.New(string(said))
	}
	if err != nil {
		return err
	}
	return same(sent, got, total)
}

func runForward(target *url.URL) error {
	connection, err := dial(target)
	if err != nil {
		return err
	}
	defer connection.Close()
	began := time.Now()
	results := make(chan error, *connections)
	var started sync.WaitGroup
	for number := range *connections {
		started.Add(1)
		go func() {
			started.Done()
			results <- through(connection, number, *size/int64(*connections))
		}()
	}
	started.Wait()
	if *reset {
		for number := range 20 {
			data, _, err := openPair(connection, 1000+number)
			if err != nil {
				return err
			}
			data.Write(make([]byte, 100_000))
			if err := data.Reset(); err != nil {
				return err
			}
		}
	}
	for range *connections {
		if err := <-results; err != nil {
			return err
		}
	}
	return tell(*size, began)
}

// held keeps what is written until it is let go: the request and the frames leave together.
type held struct {
	net.Conn
	mutex sync.Mutex
	kept  []byte
	free  bool
}

func (h *held) Write(data []byte) (int, error) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	if h.free {
		return h.Conn.Write(data)
	}
	h.kept = append(h.kept, data...)
	return len(data), nil
}

func (h *held) let() {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	h.Conn.Write(h.kept)
	h.free = true
}

func runRaw(target *url.URL) error {
	socket, err := net.Dial("tcp", target.Host)
	if err != nil {
		return err
	}
	wire := &held{Conn: socket, free: !*early}
	fmt.Fprintf(wire, "POST %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"+
		"X-Stream-Protocol-Version: portforward.k8s.io\r\nContent-Length: 0\r\n\r\n", target.Path, target.Host)
	reader := bufio.NewReader(socket)
	if !*early {
		if err := expectUpgrade(reader); err != nil {
			return err
		}
	}
	lazy := &lazyReader{reader: reader, wait: *early}
	connection, err := spdystream.NewConnection(&rawConn{wire, lazy}, false)
	if err != nil {
		return err
	}
	go connection.Serve(spdystream.NoOpStreamHandler)
	headers := func(kind string) http.Header {
		return http.Header{"streamtype": {kind}, "port": {strconv.Itoa(*port)}, "requestid": {"0"}}
	}
	failure, err := connection.CreateStream(headers("error"), nil, false)
	if err != nil {
		return err
	}
	data, err := connection.CreateStream(headers("data"), nil, false)
	if err != nil {
		return err
	}
	if *early {
		wire.let()
	}
	if err := errors.Join(failure.WaitTimeout(10*time.Second), data.WaitTimeout(10*time.Second)); err != nil {
		return err
	}
	if _, err := connection.Ping(); err != nil {
		return err
	}
	sent, got, began := newNoise(*size), newSink(), time.Now()
	go func() {
		io.Copy(data, sent)
		data.Close()
	}()
	if _, err := io.Copy(got, data); err != nil {
		return err
	}
	if err := same(sent, got, *size); err != nil {
		return err
	}
	failure.Close()
	if err := connection.CloseWait(); err != nil {
		return err
	}
	return tell(*size, began)
}

type rawConn struct {
	net.Conn
	from io.Reader
}

func (r *rawConn) Read(into []byte) (int, error) { return r.from.Read(into) }

type lazyReader struct {
	reader *bufio.Reader
	wait   bool
}

func (l *lazyReader) Read(into []byte) (int, error) {
	if l.wait {
		l.wait = false
		if err := expectUpgrade(l.reader); err != nil {
			return 0, err
		}
	}
	return l.reader.Read(into)
}

func expectUpgrade(reader *bufio.Reader) error {
	answer, err := http.ReadResponse(reader, nil)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusSwitchingProtocols {
		said, _ := io.ReadAll(answer.Body)
		return fmt.Errorf("%s: %s", answer.Status, said)
	}
	return nil
}
