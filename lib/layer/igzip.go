// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// leastForeign is how long a compressed layer is at least for which a process is started. igzip begins when it has read as much.
	leastForeign = 1 << 20
	pipeSize     = 1 << 20 // the most that Linux allows by default
	nobody       = 65534
)

// repeatable is a source that knows its length and can be read once more.
type repeatable interface {
	Size() int64
	// Again gives the bytes from the first one on.
	Again() io.Reader
}

// igzip is the path of Intel's decompressor, which takes a third of the time of the one here, or empty. unpigz is no faster.
// The variable that turns it off is containerd's.
var igzip = sync.OnceValue(func() string {
	if off, _ := strconv.ParseBool(os.Getenv("CONTAINERD_DISABLE_IGZIP")); off {
		return ""
	}
	path, err := exec.LookPath("igzip")
	if err != nil {
		return ""
	}
	return path
})

// foreign is a gzip stream that another program decompresses. If that fails for whatever reason, the stream is decompressed here
// from its beginning, and goes on behind what was read. So only a [repeatable] source is given to it.
type foreign struct {
	source io.Reader // what the program has not been given
	again  func() io.Reader
	cmd    *exec.Cmd
	out    *os.File
	fed    chan error // what ended the source, when no more is written to the program
	given  int64
	plain  io.ReadCloser // in the program's place
	ended  bool
}

// startForeign gives nil if the program cannot be started.
func startForeign(program string, source io.Reader, again func() io.Reader) *foreign {
	if program == "" {
		return nil
	}
	stdin, in, err := os.Pipe()
	if err != nil {
		return nil
	}
	defer stdin.Close()
	out, stdout, err := os.Pipe()
	if err != nil {
		in.Close()
		return nil
	}
	defer stdout.Close()
	for _, p := range []*os.File{in, out} {
		unix.FcntlInt(p.Fd(), unix.F_SETPIPE_SZ, pipeSize)
	}
	cmd := exec.Command(program, "-d", "-c")
	cmd.Stdin, cmd.Stdout, cmd.Dir, cmd.Env = stdin, stdout, "/", []string{}
	if os.Geteuid() == 0 { // it reads what others have written
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	if err := cmd.Start(); err != nil {
		in.Close()
		out.Close()
		return nil
	}
	f := &foreign{source: source, again: again, cmd: cmd, out: out, fed: make(chan error, 1)}
	go f.feed(in)
	return f
}

// feed writes the source to the program until one of them ends.
func (f *foreign) feed(in *os.File) {
	defer in.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := f.source.Read(buf)
		if _, broken := in.Write(buf[:n]); broken != nil {
			f.fed <- nil
			return
		}
		if err != nil {
			if err == io.EOF {
				err = nil
			}
			f.fed <- err
			return
		}
	}
}

// Read gives the uncompressed bytes.
func (f *foreign) Read(p []byte) (int, error) {
	if f.plain != nil {
		return f.plain.Read(p)
	}
	if f.ended {
		return 0, io.EOF
	}
	n, err := f.out.Read(p)
	f.given += int64(n)
	if n > 0 || err == nil {
		return n, nil
	}
	failed, err := f.end()
	if err == nil {
		_, err = io.Copy(io.Discard, f.source) // what the program has not read
	}
	if err != nil {
		return 0, err
	}
	if failed == nil {
		return 0, io.EOF
	}
	f.plain, err = gunzip(bufio.NewReaderSize(f.again(), readAhead))
	if err != nil {
		return 0, err
	}
	if _, err := io.CopyN(io.Discard, f.plain, f.given); err != nil {
		if err == io.EOF {
			err = fmt.Errorf("%s gives more than there is: %w", f.cmd.Path, io.ErrUnexpectedEOF)
		}
		return 0, err
	}
	return f.plain.Read(p)
}

// end waits for the program and for a read of the source that is under way. err is the source's.
func (f *foreign) end() (failed, err error) {
	f.ended = true
	failed = f.cmd.Wait()
	return failed, <-f.fed
}

// Close ends the program.
func (f *foreign) Close() error {
	if !f.ended {
		f.cmd.Process.Kill()
		f.end()
	}
	f.out.Close()
	if f.plain != nil {
		return f.plain.Close()
	}
	return nil
}
