// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestChanges(t *testing.T) {
	base := `{"Cmd":["old"],"Entrypoint":["e"],"Env":["A=1","B=2"],"WorkingDir":"/srv","Healthcheck":{"Test":["CMD","x"]}}`
	for _, c := range []struct {
		changes string // one a line
		want    string
	}{
		{`CMD ["a","b"]`, `"Cmd":["a","b"],"Entrypoint":["e"],"Env":["A=1","B=2"]`},
		{`cmd echo  $A`, `"Cmd":["/bin/sh","-c","echo  $A"]`},
		{`CMD []`, `{"Entrypoint":["e"]`},
		{`ENTRYPOINT ["x"]`, `{"Entrypoint":["x"],"Env"`},
		{"CMD [\"c\"]\nENTRYPOINT [\"x\"]", `{"Cmd":["c"],"Entrypoint":["x"]`},
		{"ENTRYPOINT", `{"Env"`},
		{`ENV A=3 C="x y" D=x\ z E='a"b'`, `"Env":["A=3","B=2","C=x y","D=x z","E=a\"b"]`},
		{`ENV A the rest = all`, `"Env":["A=the rest = all","B=2"]`},
		{`ENV A=`, `"Env":["A=","B=2"]`},
		{`ENV A=$A:x B="${A}y" C='$A' D=\$A E=$ F=a$N.b`, `"Env":["A=1:x","B=1y","C=$A","D=$A","E=$","F=a.b"]`},
		{"ENV A=3\nENV C=$A", `"Env":["A=3","B=2","C=3"]`},
		{`ENV C=${N:-d$B} D=${A:-x} E=${A:+y} F=${N:+y} G=${N:-${A:+z}}`, `"C=d2","D=1","E=y","F=","G=z"]`},
		{`ENV C a $A \$A`, `"C=a 1 $A"]`},
		{`ENV C value with "quotes"`, `"C=value with quotes"]`},
		{"ENV\tC\tit is  'a $A' \\\"and\\\" \"b $A\"", `"C=it is  a $A \"and\" b 1"]`},
		{`ENV C="a\z\"\\" D=${N:-"x y"}`, `"C=a\\z\"\\","D=x y"]`},
		{`LABEL "b c"="d e"`, `"Labels":{"b c":"d e"}`},
		{`LABEL "b c" d "e"`, `"Labels":{"b c":"d e"}`},
		{`LABEL v=$A`, `"Labels":{"v":"1"}`},
		{`EXPOSE $A/udp`, `"ExposedPorts":{"1/udp":{}}`},
		{`VOLUME ["/v$A"]`, `"Volumes":{"/v1":{}}`},
		{`WORKDIR /w${A}`, `"WorkingDir":"/w1"`},
		{`STOPSIGNAL $B`, `"StopSignal":"2"`},
		{`EXPOSE 80 53/UDP 8000-8010`, `"ExposedPorts":{"53/udp":{},"80/tcp":{},"8000-8010/tcp":{}}`},
		{`LABEL a=1 "b c"="d e"`, `"Labels":{"a":"1","b c":"d e"}`},
		{`STOPSIGNAL SIGQUIT`, `"StopSignal":"SIGQUIT"`},
		{`USER 1000:1000`, `"User":"1000:1000"`},
		{`VOLUME /data /x/`, `"Volumes":{"/data":{},"/x":{}}`},
		{`VOLUME ["/data"]`, `"Volumes":{"/data":{}}`},
		{`WORKDIR sub`, `"WorkingDir":"/srv/sub"`},
		{`WORKDIR /abs/`, `"WorkingDir":"/abs"`},
		{`USER x`, `"Healthcheck":{"Test":["CMD","x"]}`},
	} {
		var all []Change
		for line := range strings.SplitSeq(c.changes, "\n") {
			ch, err := ParseChange(line)
			if err != nil {
				t.Errorf("%s: %v", line, err)
			}
			all = append(all, ch)
		}
		got, err := configOf([]byte(`{"os":"linux","config":`+base+`,"rootfs":{"type":"layers","diff_ids":[]}}`), digest.FromString("x"), Options{Changes: all})
		if err != nil || !strings.Contains(string(got), c.want) {
			t.Errorf("%s: %s, %v: want %s", c.changes, got, err, c.want)
		}
	}
	for _, bad := range []string{"", "RUN x", "ENV", "ENV =1", `ENV A="x`, `ENV A b "x`, "LABEL x=1 y", "EXPOSE x", "EXPOSE 0", "EXPOSE 70000", "EXPOSE 9-8", "EXPOSE 80/icmp",
		"CMD [1]", "CMD [\"a\"", "USER a b", "WORKDIR", "VOLUME /", "ENV A=1\nUSER x", "STOPSIGNAL SIGFOO", "STOPSIGNAL 0"} {
		if _, err := ParseChange(bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// An instruction with a variable is refused when its value is known.
func TestBadVariables(t *testing.T) {
	for _, text := range []string{"ENV A=${B", "ENV A=${}", "ENV A=${B-x}", "ENV A=${B:?x}", "EXPOSE $A", "STOPSIGNAL $A", "USER $N", "WORKDIR $N", `ENV B="$A`, "VOLUME $N"} {
		c, err := ParseChange(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		_, err = configOf([]byte(`{"config":{"Env":["A=zero"]},"rootfs":{"type":"layers"}}`), "sha256:2", Options{Changes: []Change{c}})
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "change ") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// Fields that nobody here knows stay; what was said of the base's container goes.
func TestConfigOf(t *testing.T) {
	at := time.Unix(86400, 0)
	got, err := configOf([]byte(`{"os":"linux","os.features":["x"],"new":{"a":1},"container":"c","container_config":{},"author":"me","config":null,
		"rootfs":{"type":"layers","diff_ids":["sha256:1"]},"history":[{"created_by":"one"}]}`), "sha256:2", Options{Time: at, Message: "why"})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"author":"me","config":{},"created":"1970-01-02T00:00:00Z","history":[{"created_by":"one"},{"created":"1970-01-02T00:00:00Z","created_by":"ctr-image commit","comment":"why"}],` +
		`"new":{"a":1},"os":"linux","os.features":["x"],"rootfs":{"type":"layers","diff_ids":["sha256:1","sha256:2"]}}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if _, err := configOf([]byte("{"), "sha256:2", Options{}); !errdefs.IsDataLoss(err) {
		t.Errorf("of a damaged configuration: %v", err)
	}
}

// What is accepted can be written and read again, and changes nothing else.
func FuzzParseChange(f *testing.F) {
	for _, s := range []string{`CMD ["a"]`, "CMD a b", `ENV A="b c" D=1`, "ENV A b", "LABEL a=1", "EXPOSE 80/udp 1-2", "VOLUME /a", "WORKDIR a", "USER x", "STOPSIGNAL 9", "ENTRYPOINT", `ENV A=\`, "ENV A=${B:-$C}", "VOLUME [\"$A\"]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseChange(s)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		data, err := configOf([]byte(`{"rootfs":{"type":"layers"}}`), "sha256:2", Options{Changes: []Change{c}})
		if errdefs.IsInvalidArgument(err) && strings.Contains(s, "$") {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		var img ocispec.Image
		if err := json.Unmarshal(data, &img); err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		for v := range img.Config.Volumes {
			if !strings.HasPrefix(v, "/") || v == "/" {
				t.Fatalf("%q: volume %q", s, v)
			}
		}
	})
}
