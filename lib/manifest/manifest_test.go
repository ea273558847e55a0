// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const whole = `
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: blue, "app.conf": "x=1\n"}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {token: s3cret}
---
apiVersion: v1
kind: Pod
metadata:
  name: web
  labels: {app: web}
  annotations: {note: hello}
spec:
  hostname: front
  shareProcessNamespace: true
  terminationGracePeriodSeconds: 5
  securityContext: {runAsUser: 1000, fsGroup: 2000, supplementalGroups: [7], sysctls: [{name: net.core.somaxconn, value: "99"}]}
  initContainers:
  - {name: prepare, image: "busybox:1", command: [sh, -c, "true"]}
  - {name: side, image: "busybox:1", restartPolicy: Always}
  containers:
  - name: main
    image: registry.example/app
    command: [run, "$(COLOUR)", "$$(COLOUR)", "$(NONE)"]
    env:
    - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}
    - {name: TOKEN, valueFrom: {secretKeyRef: {name: keys, key: token}}}
    - {name: WHO, valueFrom: {fieldRef: {fieldPath: "metadata.labels['app']"}}}
    - {name: AT, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: BOTH, value: "$(WHO)-$(COLOUR)"}
    - {name: GONE, valueFrom: {configMapKeyRef: {name: nowhere, key: k, optional: true}}}
    envFrom: [{prefix: S_, configMapRef: {name: settings}}]
    ports: [{name: http, containerPort: 80, hostPort: 8080}]
    resources: {limits: {cpu: 500m, memory: 64Mi, hugepages-2Mi: 4Mi}, requests: {cpu: 250m}}
    securityContext: {capabilities: {add: [NET_ADMIN], drop: [ALL]}, readOnlyRootFilesystem: true, allowPrivilegeEscalation: false}
    livenessProbe: {httpGet: {path: /healthz, port: http}}
    volumeMounts:
    - {name: conf, mountPath: /etc/app}
    - {name: scratch, mountPath: /scratch, subPath: a/b}
  volumes:
  - {name: conf, configMap: {name: settings, items: [{key: app.conf, path: sub/app.conf, mode: 0400}]}}
  - {name: scratch, emptyDir: {}}
`

func read(t *testing.T, text string) *Pod {
	t.Helper()
	pods, err := Read([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return pods[0]
}

func TestSandbox(t *testing.T) {
	p := read(t, whole)
	h := Home(filepath.Join(t.TempDir(), "u-1"))
	s, err := p.Sandbox(h)
	if err != nil {
		t.Fatal(err)
	}
	if m := s.Metadata; m.Name != "web" || m.Namespace != "default" || m.Uid != "u-1" || s.Hostname != "front" {
		t.Error(m, s.Hostname)
	}
	if s.Labels["app"] != "web" || s.Labels[LabelPodUID] != "u-1" || s.Annotations["note"] != "hello" {
		t.Error(s.Labels, s.Annotations)
	}
	if len(s.PortMappings) != 1 || s.PortMappings[0].HostPort != 8080 || s.PortMappings[0].ContainerPort != 80 || s.PortMappings[0].Protocol != runtimeapi.Protocol_TCP {
		t.Error(s.PortMappings)
	}
	sc := s.Linux.SecurityContext
	if sc.NamespaceOptions.Pid != runtimeapi.NamespaceMode_POD || sc.RunAsUser.Value != 1000 || !slices.Equal(sc.SupplementalGroups, []int64{7, 2000}) {
		t.Error(sc)
	}
	if s.Linux.Sysctls["net.core.somaxconn"] != "99" {
		t.Error(s.Linux.Sysctls)
	}
}

func TestContainer(t *testing.T) {
	p := read(t, whole)
	h := Home(t.TempDir())
	if err := p.Prepare(h); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.remove(); err != nil {
			t.Error(err)
		}
	})
	c, err := p.Container(&p.Pod.Spec.Containers[0], 3, "sha256:abc", h, Facts{UID: h.UID(), IPs: []string{"10.1.2.3"}})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"run", "blue", "$(COLOUR)", "$(NONE)"}; !slices.Equal(c.Command, want) {
		t.Errorf("%q, want %q", c.Command, want)
	}
	env := map[string]string{}
	for _, e := range c.Envs {
		env[e.Key] = string(e.Value)
	}
	want := map[string]string{"COLOUR": "blue", "TOKEN": "s3cret", "WHO": "web", "AT": "10.1.2.3", "BOTH": "web-blue", "S_colour": "blue", "S_app.conf": "x=1\n"}
	if !maps.Equal(env, want) {
		t.Errorf("%v, want %v", env, want)
	}
	if r := c.Linux.Resources; r.CpuQuota != 50000 || r.CpuPeriod != 100000 || r.CpuShares != 256 || r.MemoryLimitInBytes != 64<<20 || r.HugepageLimits[0].PageSize != "2MB" || r.HugepageLimits[0].Limit != 4<<20 {
		t.Error(r)
	}
	if sc := c.Linux.SecurityContext; !sc.NoNewPrivs || !sc.ReadonlyRootfs || sc.Capabilities.AddCapabilities[0] != "NET_ADMIN" || len(sc.MaskedPaths) == 0 {
		t.Error(sc)
	}
	if c.Metadata.Attempt != 3 || c.LogPath != "main/3.log" || c.Image.UserSpecifiedImage != "registry.example/app" {
		t.Error(c.Metadata, c.LogPath, c.Image)
	}
	conf := filepath.Join(c.Mounts[0].HostPath, "sub/app.conf")
	data, err := os.ReadFile(conf)
	if st, e := os.Stat(conf); err != nil || e != nil || string(data) != "x=1\n" || st.Mode().Perm() != 0o400 || !c.Mounts[0].Readonly {
		t.Errorf("%q, %v, %v", data, err, e)
	}
	if err := os.WriteFile(filepath.Join(c.Mounts[1].HostPath, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(h.volume("scratch"), "a/b/f")); err != nil {
		t.Error("the part is not bound:", err)
	}
}

// A link that a program has put into a volume leads nowhere else.
func TestPartStaysInVolume(t *testing.T) {
	p := read(t, whole)
	h := Home(t.TempDir())
	if err := p.Prepare(h); err != nil {
		t.Fatal(err)
	}
	outside := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(h.volume("scratch"), "a")); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Container(&p.Pod.Spec.Containers[0], 0, "i", h, Facts{}); err == nil {
		t.Error("a part of the volume lies outside of it")
	}
	if all, err := os.ReadDir(outside); err != nil || len(all) > 0 {
		t.Error(all, err)
	}
}

func TestDefaults(t *testing.T) {
	p := read(t, whole).Pod.Spec
	if p.RestartPolicy != corev1.RestartPolicyAlways || p.Containers[0].ImagePullPolicy != corev1.PullAlways || p.InitContainers[0].ImagePullPolicy != corev1.PullIfNotPresent {
		t.Error(p.RestartPolicy, p.Containers[0].ImagePullPolicy, p.InitContainers[0].ImagePullPolicy)
	}
	if l := p.Containers[0].LivenessProbe; l.PeriodSeconds != 10 || l.FailureThreshold != 3 || l.TimeoutSeconds != 1 {
		t.Error(l)
	}
	for image, want := range map[string]bool{"a": true, "a:latest": true, "r:5000/a": true, "a:1": false, "a@sha256:" + strings.Repeat("0", 64): false} {
		if floating(image) != want {
			t.Error(image)
		}
	}
}

// What is wrong is named.
func TestReadErrors(t *testing.T) {
	pod := func(spec string) string {
		return "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: " + spec
	}
	for name, c := range map[string]struct{ text, says string }{
		"nothing":        {"", "no document is a pod"},
		"no kind":        {"a: 1", "no kind"},
		"another kind":   {"apiVersion: v1\nkind: Service\n", "kind Service"},
		"deployment":     {"apiVersion: apps/v1\nkind: Deployment\n", "Deployment"},
		"unknown field":  {pod("{containers: [{name: a, image: i, imagee: j}]}"), "imagee"},
		"no containers":  {pod("{}"), "spec.containers"},
		"no image":       {pod("{containers: [{name: a}]}"), "image is not set"},
		"bad name":       {pod("{containers: [{name: A_b, image: i}]}"), `container "A_b"`},
		"twice":          {pod("{containers: [{name: a, image: i}, {name: a, image: i}]}"), "twice"},
		"no volume":      {pod("{containers: [{name: a, image: i, volumeMounts: [{name: v, mountPath: /v}]}]}"), `no volume "v"`},
		"relative mount": {pod("{containers: [{name: a, image: i, volumeMounts: [{name: v, mountPath: v}]}], volumes: [{name: v, emptyDir: {}}]}"), "not absolute"},
		"part outside":   {pod("{containers: [{name: a, image: i, volumeMounts: [{name: v, mountPath: /v, subPath: ../x}]}], volumes: [{name: v, emptyDir: {}}]}"), "leaves the volume"},
		"other volume":   {pod("{containers: [{name: a, image: i}], volumes: [{name: v, nfs: {server: s, path: /p}}]}"), `volume "v"`},
		"probe":          {pod("{containers: [{name: a, image: i, livenessProbe: {httpGet: {port: web}}}]}"), `port "web"`},
		"empty probe":    {pod("{containers: [{name: a, image: i, readinessProbe: {periodSeconds: 3}}]}"), "readinessProbe"},
		"policy":         {pod("{restartPolicy: Sometimes, containers: [{name: a, image: i}]}"), "Sometimes"},
		"users":          {pod("{hostUsers: false, containers: [{name: a, image: i}]}"), "hostUsers"},
		"restart":        {pod("{containers: [{name: a, image: i, restartPolicy: Always}]}"), "restartPolicy"},
		"same pod":       {pod("{containers: [{name: a, image: i}]}") + "\n---\n" + pod("{containers: [{name: a, image: i}]}"), "twice"},
	} {
		_, err := Read([]byte(c.text))
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
}

func TestCheckUser(t *testing.T) {
	p := read(t, "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {securityContext: {runAsNonRoot: true}, containers: [{name: a, image: i}]}")
	c := &p.Pod.Spec.Containers[0]
	if err := p.checkUser(c, &runtimeapi.Image{Uid: &runtimeapi.Int64Value{Value: 5}}); err != nil {
		t.Error(err)
	}
	for _, image := range []*runtimeapi.Image{{}, {Uid: &runtimeapi.Int64Value{}}, {Username: "web"}} {
		if err := p.checkUser(c, image); !errdefs.IsFailedPrecondition(err) {
			t.Error(image, err)
		}
	}
}

func TestBackoff(t *testing.T) {
	var b backoff
	var got []time.Duration
	for range 8 {
		got = append(got, b.next(time.Second))
	}
	s := time.Second
	if want := []time.Duration{0, 10 * s, 20 * s, 40 * s, 80 * s, 160 * s, 300 * s, 300 * s}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if again := b.next(longRun); again != 0 {
		t.Error(again)
	}
}

func TestHome(t *testing.T) {
	dir := t.TempDir()
	p := read(t, whole)
	h, held, err := Make(dir, p)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Hold(); !errdefs.IsAborted(err) {
		t.Error(err)
	}
	again, err := h.Load()
	if err != nil || !Same(again, p) {
		t.Error(err, again)
	}
	if st, err := os.Stat(filepath.Join(string(h), fileManifest)); err != nil || st.Mode().Perm() != 0o600 {
		t.Error("secrets can be read:", st.Mode(), err)
	}
	if all, err := Find(dir, "default/web"); err != nil || !slices.Equal(all, []Home{h}) {
		t.Error(all, err)
	}
	if err := held.Release(); err != nil {
		t.Error(err)
	}
	if err := h.remove(); err != nil {
		t.Error(err)
	}
	if all, err := os.ReadDir(dir); err != nil || len(all) > 0 {
		t.Error(all, err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(whole))
	f.Add([]byte(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"a","image":"i"}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		pods, err := Read(data)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Fatal(err)
			}
			return
		}
		for _, p := range pods {
			h := Home("/nowhere/uid")
			if _, err := p.Sandbox(h); err != nil && !errdefs.IsInvalidArgument(err) {
				t.Fatal(err)
			}
			for _, c := range p.containers() {
				if _, err := p.environment(c, Facts{}); err != nil && !errdefs.IsInvalidArgument(err) && !errdefs.IsNotFound(err) {
					t.Fatal(err)
				}
				p.security(c)
				resources(c.Resources)
			}
		}
	})
}
