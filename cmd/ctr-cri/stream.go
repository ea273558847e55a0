// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/stdio"
)

// The streams of a session are told apart by a header; see "remotecommand" of Kubernetes, protocol v4.channel.k8s.io.
const (
	headerStreamType = "streamType"
	sessionProtocol  = "v4.channel.k8s.io"
)

// streamFlags are the options about the connection that carries a session.
type streamFlags struct{ name, ca, cert, key string }

func (s *streamFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&s.name, "tls-sni", "localhost", "expect the server of streams to be called `NAME`")
	f.StringVar(&s.ca, "tls-ca", "", "trust the certificates in `FILE` (PEM) for the server of streams")
	f.StringVar(&s.cert, "tls-cert", "", "log in to the server of streams with the certificate in `FILE` (PEM)")
	f.StringVar(&s.key, "tls-key", "", "the certificate's key is in `FILE` (PEM)")
	cmd.MarkFlagsRequiredTogether("tls-cert", "tls-key")
	cli.CompleteOption(cmd, "tls-sni", cobra.NoFileCompletions)
}

// config is what the options say about TLS. Where no certificates are named the server's is not checked: the address came
// from the runtime itself.
func (s *streamFlags) config() (*tls.Config, error) {
	c := &tls.Config{ServerName: s.name, InsecureSkipVerify: s.ca == ""}
	if s.ca != "" {
		data, err := os.ReadFile(s.ca)
		if err != nil {
			return nil, err
		}
		if c.RootCAs = x509.NewCertPool(); !c.RootCAs.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("--tls-ca %q: no certificate: %w", s.ca, errdefs.ErrInvalidArgument)
		}
	}
	if s.cert != "" {
		pair, err := tls.LoadX509KeyPair(s.cert, s.key)
		if err != nil {
			return nil, fmt.Errorf("--tls-cert: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// dial connects to the address of a session that the runtime has given.
func (s *streamFlags) dial(ctx context.Context, address, protocol string) (httpstream.Connection, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("the runtime gave %q, which is no address of a stream: %w", address, errdefs.ErrUnavailable)
	}
	config, err := s.config()
	if err != nil {
		return nil, err
	}
	transport, err := spdy.NewRoundTripperWithConfig(spdy.RoundTripperConfig{TLS: config, Proxier: func(*http.Request) (*url.URL, error) { return nil, nil }})
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set(httpstream.HeaderProtocolVersion, protocol)
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return nil, fmt.Errorf("stream at %s: %w: %w", u.Host, err, errdefs.ErrUnavailable)
	}
	defer answer.Body.Close()
	conn, err := transport.NewConnection(answer)
	if err != nil {
		return nil, fmt.Errorf("stream at %s: %w: %w", u.Host, err, errdefs.ErrUnavailable)
	}
	if got := answer.Header.Get(httpstream.HeaderProtocolVersion); got != protocol {
		conn.Close()
		return nil, fmt.Errorf("stream at %s: the server speaks %q, not %q: %w", u.Host, got, protocol, errdefs.ErrUnavailable)
	}
	return conn, nil
}

// session is what goes through the streams of an exec or an attach.
type session struct {
	stdin io.Reader // nil: none
	tty   bool
	sizes func(ctx context.Context, set func(width, height uint16)) // of the terminal; nil: it has none
}

// run carries the session until its program has ended, whose status it gives.
func (s *session) run(ctx context.Context, conn httpstream.Connection) (status int, err error) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	open := func(kind string) (httpstream.Stream, error) {
		stream, err := conn.CreateStream(http.Header{headerStreamType: {kind}})
		if err != nil {
			return nil, fmt.Errorf("stream %s: %w: %w", kind, err, errdefs.ErrUnavailable)
		}
		return stream, nil
	}
	verdict, err := open("error")
	if err != nil {
		return 0, err
	}
	ended := make(chan error, 1) // by the user, who typed the keys
	if s.stdin != nil {
		in, err := open("stdin")
		if err != nil {
			return 0, err
		}
		go func() {
			_, err := io.Copy(in, s.stdin)
			in.Close()
			if errors.Is(err, stdio.ErrDetached) {
				ended <- err
				conn.Close()
			}
		}()
	}
	var copies sync.WaitGroup
	outputs := map[string]io.Writer{"stdout": os.Stdout}
	if !s.tty {
		outputs["stderr"] = os.Stderr
	}
	for _, kind := range []string{"stdout", "stderr"} {
		if outputs[kind] == nil {
			continue
		}
		stream, err := open(kind)
		if err != nil {
			return 0, err
		}
		copies.Go(func() {
			if _, err := io.Copy(outputs[kind], stream); err != nil {
				stream.Reset()
			}
		})
	}
	if s.sizes != nil {
		stream, err := open("resize")
		if err != nil {
			return 0, err
		}
		sizes, cancel := context.WithCancel(ctx)
		defer cancel()
		go s.sizes(sizes, func(w, h uint16) { fmt.Fprintf(stream, `{"Width":%d,"Height":%d}`+"\n", w, h) })
	}
	status, err = readVerdict(verdict)
	copies.Wait()
	select {
	case err = <-ended:
	default:
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	}
	return status, err
}

// maxVerdict bounds what a server says of how a program ended, in bytes.
const maxVerdict = 1 << 20

// readVerdict reads how the program ended: a Status of the Kubernetes API. Nothing is the end of an attach.
func readVerdict(r io.Reader) (int, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxVerdict))
	if err != nil {
		return 0, fmt.Errorf("the session was cut off: %w: %w", err, errdefs.ErrUnavailable)
	}
	if len(data) == 0 {
		return 0, nil
	}
	return parseVerdict(data)
}

func parseVerdict(data []byte) (int, error) {
	var v struct {
		Status, Message, Reason string
		Details                 struct {
			Causes []struct{ Reason, Message string }
		}
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return 0, fmt.Errorf("the session ended: %s", data)
	}
	if v.Status == "Success" {
		return 0, nil
	}
	for _, c := range v.Details.Causes {
		if n, err := strconv.Atoi(c.Message); v.Reason == "NonZeroExitCode" && c.Reason == "ExitCode" && err == nil {
			return n, nil
		}
	}
	return 0, errors.New(v.Message)
}
