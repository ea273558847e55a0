// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A configuration may have the names of the protocol or of its JSON form, as JSON or YAML, and numbers for names of enums.
func TestReadPod(t *testing.T) {
	want := &runtime.PodSandboxConfig{
		Metadata: &runtime.PodSandboxMetadata{Name: "web", Namespace: "ns", Attempt: 2}, LogDirectory: "/l",
		Linux: &runtime.LinuxPodSandboxConfig{SecurityContext: &runtime.LinuxSandboxSecurityContext{NamespaceOptions: &runtime.NamespaceOption{Network: runtime.NamespaceMode_NODE}}},
	}
	for name, text := range map[string]string{
		"protocol": `{"metadata":{"name":"web","namespace":"ns","attempt":2},"log_directory":"/l","linux":{"security_context":{"namespace_options":{"network":2}}}}`,
		"json":     `{"metadata":{"name":"web","namespace":"ns","attempt":2},"logDirectory":"/l","linux":{"securityContext":{"namespaceOptions":{"network":"NODE"}}}}`,
		"yaml":     "metadata:\n  name: web\n  namespace: ns\n  attempt: 2\nlog_directory: /l\nlinux:\n  security_context:\n    namespace_options:\n      network: 2\n",
	} {
		got, err := readPod(file(t, text))
		if err != nil || !proto.Equal(got, want) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	for name, c := range map[string]struct{ text, says string }{
		"no name": {`{"metadata":{"uid":"u"}}`, "metadata.name is not set"},
		"unknown": {`{"metadata":{"name":"n"},"hostnam":"x"}`, "hostnam"},
		"twice":   {"metadata: {name: n}\nmetadata: {name: m}\n", "metadata"},
		"no JSON": {"\x00", "control characters"},
		"long":    {strings.Repeat(" ", maxConfig+1), "longer than"},
	} {
		if _, err := readPod(file(t, c.text)); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
}

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"metadata":{"name":"n"},"labels":{"a":"b"}}`))
	f.Add([]byte("metadata: {name: n}\nport_mappings: [{protocol: 1, host_port: 80}]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := &runtime.PodSandboxConfig{}
		if parseConfig(data, c) != nil {
			return
		}
		again, err := messageJSON(c)
		if err != nil {
			t.Fatal(err)
		}
		d := &runtime.PodSandboxConfig{}
		if err := parseConfig(again, d); err != nil || !proto.Equal(c, d) {
			t.Fatalf("%v: %v became %v", err, c, d)
		}
	})
}

func TestParseForward(t *testing.T) {
	for s, want := range map[string]forwarded{"80": {80, 80}, "8080:80": {8080, 80}, ":80": {0, 80}, "0:80": {0, 80}} {
		if got, err := parseForward(s); err != nil || got != want {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "0", "80:", "a", "1:2:3", "65536", "-1", "80:0"} {
		if got, err := parseForward(s); err == nil {
			t.Errorf("%q: %v", s, got)
		}
	}
}

// What a server says of the end of a program, as Kubernetes has it.
func TestParseVerdict(t *testing.T) {
	for text, want := range map[string]int{
		`{"status":"Success"}`: 0,
		`{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}`: 7,
	} {
		if got, err := parseVerdict([]byte(text)); err != nil || got != want {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	for text, want := range map[string]string{
		`{"status":"Failure","reason":"InternalError","message":"it broke"}`: "it broke",
		"plain words": "plain words",
	} {
		if _, err := parseVerdict([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestTable(t *testing.T) {
	if got := shortID("sha256:0123456789abcdef", false); got != "0123456789abc" {
		t.Error(got)
	}
	if got := containerState(runtime.ContainerState_CONTAINER_EXITED); got != "Exited" {
		t.Error(got)
	}
	r := recent{last: 3}
	if r.count(2) != 2 || r.count(9) != 3 || (&recent{latest: true}).count(0) != 0 {
		t.Error("count")
	}
}

// A selector without a value is no selector: nothing would fit, and nobody would be told why.
func TestSelectors(t *testing.T) {
	if got, err := labels([]string{"a=", "b=c=d"}); err != nil || got["a"] != "" || got["b"] != "c=d" {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := labels([]string{"a=b", "foo"}); err == nil || !strings.Contains(err.Error(), `"foo"`) {
		t.Errorf("%v, %v", got, err)
	}
}

// What was tried is told once, also where the runtime tells it too.
func TestAbout(t *testing.T) {
	for text, want := range map[string]string{
		"busy":                          `start container "8c": busy`,
		`start container "8cdef": busy`: `start container "8cdef": busy`,
		`container "8cdef": busy`:       `start container "8c": container "8cdef": busy`,
	} {
		if got := about("start container", "8c", errors.New(text)).Error(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
