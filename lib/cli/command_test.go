// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/creack/pty"
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/state"
)

// The test runs its own binary as the command ctr-try.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "ctr-try" {
		cli.Main(try())
		return
	}
	os.Exit(m.Run())
}

type thing struct {
	Name string `json:"name"`
	Size int    `json:"size"`
}

var examples = []cli.Example{{Note: "try it", Text: "ctr-try list"}}

func try() *cobra.Command {
	root, g := cli.Root("ctr-try VERB", "try things", cli.About{Long: "Tries."}, nil)
	table := &cli.Table[thing]{Columns: []cli.Column[thing]{
		{Name: "name", Value: func(t thing) string { return t.Name }},
		{Name: "size", Value: func(t thing) string { return fmt.Sprint(t.Size) }, Right: true},
		{Name: "twice", Value: func(t thing) string { return fmt.Sprint(2 * t.Size) }, Hidden: true},
	}}
	verb := func(use string, a cli.About, run cli.Run) *cobra.Command {
		a.Long, a.Examples = "Does it.", examples
		if a.Args == nil {
			a.Args = cli.Count(0, -1)
		}
		c := cli.New(use, "do it", a, run)
		root.AddCommand(c)
		return c
	}
	list := verb("list [OPTION]...", cli.About{Stdout: "a thing a line", Args: cli.Count(0, 0)}, func(*cobra.Command, []string) error {
		return table.PrintAll([]thing{{"a", 1}, {"b\tb\n", 1000}})
	})
	table.Flags(list)
	cli.ExplainAbsent(list, cli.Absent{"a": "it lists all"})
	verb("each [OPTION]... NAME...", cli.About{Args: cli.Count(1, -1), Exit: []int{3, 7}, Complete: cli.Containers(g)}, func(_ *cobra.Command, args []string) error {
		return cli.Each(cli.Operands(args, os.Stdin), func(name string) error {
			switch name {
			case "gone":
				return cli.Hint(fmt.Errorf("thing %q: %w", name, errdefs.ErrNotFound), "make it")
			case "busy":
				return fmt.Errorf("thing %q: %w", name, errdefs.ErrAborted)
			}
			_, err := fmt.Println(name)
			return err
		})
	})
	verb("first -", cli.About{}, func(*cobra.Command, []string) error {
		name, err := cli.ReadName(os.Stdin)
		if err != nil {
			return err
		}
		rest, err := io.ReadAll(os.Stdin)
		fmt.Printf("%s|%s", name, rest)
		return err
	})
	verb("program NAME", cli.About{Failure: 125, Program: true}, func(_ *cobra.Command, args []string) error {
		switch args[0] {
		case "seven":
			return cli.Exit(7)
		case "missing":
			return cli.WithStatus(errors.New("no such program"), 127)
		case "each":
			return cli.Each(cli.Operands(args, os.Stdin), func(string) error { return errdefs.ErrNotFound })
		}
		return errdefs.ErrNotFound
	})
	verb("sleep", cli.About{}, func(cmd *cobra.Command, _ []string) error {
		fmt.Println("ready")
		<-cmd.Context().Done()
		fmt.Println("undone")
		time.Sleep(time.Duration(len(os.Getenv("TRY_SLOW"))) * time.Second)
		return cmd.Context().Err()
	})
	verb("own", cli.About{}, func(*cobra.Command, []string) error {
		sig := cli.Signals(syscall.SIGTERM)
		fmt.Println("ready")
		fmt.Println(<-sig, <-sig)
		return nil
	})
	verb("yes", cli.About{}, func(*cobra.Command, []string) error {
		for {
			if _, err := fmt.Println("y"); err != nil {
				return err
			}
		}
	})
	verb("open", cli.About{}, func(*cobra.Command, []string) error {
		_, err := g.Open()
		return err
	})
	return root
}

func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	name := filepath.Join(t.TempDir(), "ctr-try")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, name); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "CTRD_ROOT="+filepath.Join(filepath.Dir(name), "root"), "CTRD_STATE="+filepath.Join(filepath.Dir(name), "state"))
	return cmd
}

func TestCommand(t *testing.T) {
	for _, c := range []struct {
		args, stdin, stdout, stderr string
		status                      int
	}{
		{args: "list", stdout: "a\t1\nb\\x09b\\x0a\t1000\n"},
		{args: "list -q", stdout: "a\nb\\x09b\\x0a\n"},
		{args: "list -z -o twice,name", stdout: "2\ta\x002000\tb\tb\n\x00"},
		{args: "list --json", stdout: "{\"name\":\"a\",\"size\":1}\n{\"name\":\"b\\tb\\n\",\"size\":1000}\n"},
		{args: "list --format {{.size}}={{.name|len}}", stdout: "1=1\n1000=4\n"},
		{args: "list --format json", stdout: "{\"name\":\"a\",\"size\":1}\n{\"name\":\"b\\tb\\n\",\"size\":1000}\n"},
		{args: "list --format table", stderr: "ctr-try: --format: \"table\" is no template: tables are made by -o COLUMNS\n", status: 2},
		{args: "list --format name", stderr: "ctr-try: --format: \"name\" is no template: it has no field such as {{.name}}\n", status: 2},
		{args: "list -o nothing", stderr: "ctr-try: -o: there is no column \"nothing\"\nhint: ctr-try list --help shows how it is used\n", status: 2},
		{args: "list -q --json", stderr: "none of the others can be", status: 2},
		{args: "list x", stderr: "ctr-try: extra operand \"x\"\n", status: 2},
		{args: "list --what", stderr: "ctr-try: unknown option --what\nhint: ctr-try list --help", status: 2},
		{args: "list --jsno", stderr: "ctr-try: unknown option --jsno; did you mean --json?\n", status: 2},
		{args: "list --form x", stderr: "unknown option --form; did you mean --format?\n", status: 2},
		{args: "list -json", stderr: "unknown option -json; did you mean --json?\n", status: 2},
		{args: "list -x", stderr: "ctr-try: unknown option -x\n", status: 2},
		{args: "list --naemspace=a", stderr: "did you mean --namespace?\n", status: 2},
		{args: "--wiat 1 list", stderr: "did you mean --wait?\n", status: 2},
		{args: "list -a", stderr: "ctr-try: unknown option -a\nhint: it lists all\n", status: 2},
		{args: "list --format", stderr: "ctr-try: option --format needs a value\n", status: 2},
		{args: "list -q=maybe", stderr: "ctr-try: --quiet \"maybe\": invalid syntax\n", status: 2},
		{args: "lost", stderr: "unknown verb \"lost\"; did you mean list?\n", status: 2},
		{args: "lost -x", stderr: "unknown verb \"lost\"; did you mean list?\n", status: 2},
		{args: "", stderr: "ctr-try: no verb given\n", status: 2},
		{args: "each", stderr: "ctr-try: missing operand\n", status: 2},
		{args: "each a -", stdin: "b\tmore\n\n c@sha256:1 \n", stdout: "a\nb\nc@sha256:1\n"},
		{args: "each gone", stderr: "ctr-try: thing \"gone\": not found\nhint: make it\n", status: 3},
		{args: "each gone gone", stderr: "hint: make it\n", status: 3},
		{args: "each gone a", stdout: "a\n", status: 7, stderr: "gone"},
		{args: "each gone busy", status: 7, stderr: "busy"},
		{args: "each busy", status: 5, stderr: "busy"},
		{args: "first -", stdin: "name@sha256:1\tx\nthe\nrest", stdout: "name@sha256:1|the\nrest"},
		{args: "first -", stdin: "blobs/\x00\x00\n", stderr: "hint: ctr-image import -", status: 2},
		{args: "each -", stdin: "a\nblobs/\x00\x00\nb\n", stdout: "a\n", stderr: "stdin has no names: it is binary", status: 7},
		{args: "first -", stdin: "", stderr: "stdin has no name", status: 2},
		{args: "program seven", status: 7},
		{args: "program missing", status: 127, stderr: "ctr-try: no such program\n"},
		{args: "program gone", status: 125, stderr: "not found"},
		{args: "program each", status: 125, stderr: "not found"},
		{args: "program --what", status: 125, stderr: "unknown option --what"},
		{args: "open -n a..b", status: 2, stderr: "namespace: \"a..b\""},
		{args: "open --wait soon", status: 2, stderr: "is no span of time"},
		{args: "open --wait 1.5"},
		{args: "open --root /proc/none", status: 1, stderr: "state directory"},
		{args: "list --help", stdout: "usage: ctr-try list [OPTION]...\n"},
		{args: "help list", stdout: "usage: ctr-try list [OPTION]...\n"},
		{args: "help lost", stderr: "unknown verb \"lost\"", status: 2},
		{args: "--version", stdout: "ctr-try version"},
	} {
		cmd := command(t, strings.Fields(c.args)...)
		var stdout, stderr bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(c.stdin), &stdout, &stderr
		cmd.Run()
		if got := cmd.ProcessState.ExitCode(); got != c.status {
			t.Errorf("%s: status %d, want %d (%s)", c.args, got, c.status, stderr.String())
		}
		prefix := strings.Contains(c.args, "help") || strings.Contains(c.args, "--version")
		if out := stdout.String(); out != c.stdout && !(prefix && strings.HasPrefix(out, c.stdout)) {
			t.Errorf("%s: stdout %q, want %q", c.args, out, c.stdout)
		}
		if !strings.Contains(stderr.String(), c.stderr) || c.stderr == "" && stderr.Len() > 0 {
			t.Errorf("%s: stderr %q, want %q", c.args, stderr.String(), c.stderr)
		}
	}
}

func TestTerminal(t *testing.T) {
	cmd := command(t, "list")
	f, err := pty.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out, _ := io.ReadAll(f) // ends with EIO
	cmd.Wait()
	if want := "NAME        SIZE\r\na              1\r\nb\\x09b\\x0a  1000\r\n"; string(out) != want {
		t.Errorf("%q, want %q", out, want)
	}
}

// start runs a command until it has printed its first line.
func start(t *testing.T, cmd *exec.Cmd) io.Reader {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	buf := make([]byte, len("ready\n"))
	if _, err := io.ReadFull(out, buf); err != nil {
		t.Fatal(err)
	}
	return out
}

func signaled(cmd *exec.Cmd) syscall.Signal {
	cmd.Wait()
	if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() {
		return ws.Signal()
	}
	return 0
}

func TestSignals(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		cmd := command(t, "sleep")
		out := start(t, cmd)
		cmd.Process.Signal(sig)
		rest, _ := io.ReadAll(out)
		if got := signaled(cmd); got != sig || string(rest) != "undone\n" {
			t.Errorf("%v: died by %v, printed %q", sig, got, rest)
		}
	}
	// The second signal does not wait for what the first began.
	cmd := command(t, "sleep")
	cmd.Env = append(cmd.Env, "TRY_SLOW="+strings.Repeat("x", 600))
	out := start(t, cmd)
	cmd.Process.Signal(syscall.SIGTERM)
	if _, err := io.ReadFull(out, make([]byte, len("undone\n"))); err != nil {
		t.Fatal(err)
	}
	cmd.Process.Signal(syscall.SIGINT)
	if got := signaled(cmd); got != syscall.SIGINT {
		t.Errorf("the second signal: died by %v", got)
	}
	// A command that takes the signals over gets all of them and ends as it likes.
	cmd = command(t, "own")
	out = start(t, cmd)
	cmd.Process.Signal(syscall.SIGTERM)
	time.Sleep(20 * time.Millisecond) // two at once would be one
	cmd.Process.Signal(syscall.SIGTERM)
	rest, _ := io.ReadAll(out)
	if got := signaled(cmd); got != 0 || string(rest) != "terminated terminated\n" {
		t.Errorf("own: died by %v, printed %q", got, rest)
	}
}

func TestBrokenPipe(t *testing.T) {
	cmd := command(t, "yes")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	io.ReadFull(out, make([]byte, 2))
	out.Close()
	if got := signaled(cmd); got != syscall.SIGPIPE || stderr.Len() > 0 {
		t.Errorf("died by %v, said %q", got, stderr.String())
	}
}

func TestFullDisk(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for _, args := range [][]string{{"list"}, {"--help"}, {"list", "--help"}, {"help", "list"}, {"--version"}} {
		cmd := command(t, args...)
		var stderr strings.Builder
		cmd.Stdout, cmd.Stderr = full, &stderr
		if cmd.Run(); cmd.ProcessState.ExitCode() != 1 || strings.Contains(stderr.String(), "hint:") {
			t.Errorf("%v: status %d, said %q", args, cmd.ProcessState.ExitCode(), stderr.String())
		}
	}
}

func TestDescribe(t *testing.T) {
	cmd := command(t, "__describe")
	cmd.Env = append(cmd.Env, "CTRD_NAMESPACE=elsewhere")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var d cli.Description
	if err := json.Unmarshal(out, &d); err != nil {
		t.Fatal(err)
	}
	if d.Name != "ctr-try" || len(d.Verbs) != 8 || d.Verbs[1].Name != "first" && d.Verbs[2].Synopsis != "ctr-try list [OPTION]..." {
		t.Errorf("%+v", d)
	}
	if strings.Contains(string(out), filepath.Dir(cmd.Path)) || strings.Contains(string(out), "elsewhere") {
		t.Error("the description depends on the environment")
	}
}

func TestCompletion(t *testing.T) {
	cmd := command(t, "__complete", "each", "")
	dir := filepath.Dir(cmd.Path)
	out, err := cmd.Output()
	if err != nil || !strings.HasPrefix(string(out), ":4\n") {
		t.Fatalf("%q, %v", out, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "state")); err == nil {
		t.Error("completion made the state directory")
	}
	d, err := state.Open(state.Config{Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"), Wait: -1})
	if err != nil {
		t.Fatal(err)
	}
	names := func(given ...string) string {
		c := exec.Command(cmd.Path, append([]string{"__complete", "each"}, append(given, "")...)...)
		c.Env = cmd.Env
		out, err := c.Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	err = d.Update(t.Context(), nil, func(tx *state.Tx) error {
		for _, id := range []string{"db", "web"} {
			err := state.Table[container.Container]{Name: "containers"}.Put(tx, "default", id, container.Container{ID: id, Image: "img-" + id})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := names(); !strings.Contains(got, "db\timg-db, created") || !strings.Contains(got, "web\timg-web, created") {
		t.Errorf("%q", got)
	}
	if got := names("db"); strings.Contains(got, "db\t") || !strings.Contains(got, "web\t") {
		t.Errorf("after db: %q", got)
	}
}

func FuzzReadName(f *testing.F) {
	f.Add([]byte("a@sha256:1\tx\nrest"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		name, err := cli.ReadName(r)
		if err == nil && (name == "" || strings.ContainsAny(name, "\n\t")) {
			t.Errorf("name %q", name)
		}
		if line, _, ok := bytes.Cut(data, []byte("\n")); err == nil && ok && r.Len() != len(data)-len(line)-1 {
			t.Errorf("%d bytes are left", r.Len())
		}
	})
}
