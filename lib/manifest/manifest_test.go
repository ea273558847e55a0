// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
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
	if st, e := os.Stat(conf); err != nil || e != nil || string(data) != "x=1\n" || st.Mode().Perm() != 0o440 || !c.Mounts[0].Readonly {
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

// A value that a field cannot have, or that is not carried out, is refused before anything is made, and the field is named: none is
// taken for another one.
func TestReadValues(t *testing.T) {
	const rest = ", containers: [{name: a, image: i}]}"
	container := func(text string) string { return "{containers: [{name: a, image: i, " + text + "}]}" }
	hosted := func(text string) string {
		return "{hostNetwork: true, containers: [{name: a, image: i, " + text + "}]}"
	}
	mounted := func(mount, volume string) string {
		return "{containers: [{name: a, image: i, volumeMounts: [{name: v, mountPath: /v" + mount + "}]}], volumes: [{name: v, " + volume + "}]}"
	}
	volume := func(text string) string { return mounted("", text) }
	for spec, says := range map[string]string{
		"{dnsPolicy: Nothing" + rest:                                                                   "spec.dnsPolicy \"Nothing\": want ClusterFirst",
		"{dnsPolicy: None" + rest:                                                                      "spec.dnsPolicy None: want spec.dnsConfig",
		"{dnsPolicy: None, dnsConfig: {nameservers: []}" + rest:                                        "spec.dnsPolicy None",
		"{dnsConfig: {nameservers: [dns.example]}" + rest:                                              "nameservers \"dns.example\"",
		"{dnsConfig: {options: [{value: x}]}" + rest:                                                   "dnsConfig.options",
		"{hostname: \"a b\"" + rest:                                                                    "spec.hostname \"a b\"",
		"{hostAliases: [{ip: \"1.2.3\", hostnames: [h]}]" + rest:                                       "hostAliases: ip",
		"{hostAliases: [{ip: 1.2.3.4, hostnames: [\"h\\n6.6.6.6 bank\"]}]" + rest:                      "hostAliases: hostname",
		"{hostPID: true, shareProcessNamespace: true" + rest:                                           "shareProcessNamespace",
		"{resources: {limits: {cpu: 1}}" + rest:                                                        "spec.resources",
		"{setHostnameAsFQDN: true" + rest:                                                              "setHostnameAsFQDN",
		"{securityContext: {seccompProfile: {type: RuntimeDefaults}}" + rest:                           "seccompProfile: type \"RuntimeDefaults\"",
		"{securityContext: {seccompProfile: {type: Localhost}}" + rest:                                 "want localhostProfile",
		"{securityContext: {seccompProfile: {}}" + rest:                                                "type is not set",
		"{securityContext: {runAsUser: -1}" + rest:                                                     "runAsUser -1",
		"{securityContext: {fsGroup: 9999999999}" + rest:                                               "fsGroup 9999999999",
		"{securityContext: {supplementalGroupsPolicy: Some}" + rest:                                    "supplementalGroupsPolicy \"Some\"",
		"{securityContext: {sysctls: [{name: a, value: b}, {name: a, value: c}]}" + rest:               "sysctls",
		container("imagePullPolicy: ifnotpresent"):                                                     "imagePullPolicy \"ifnotpresent\": want Always",
		container("workingDir: tmp"):                                                                   "workingDir \"tmp\"",
		container("stdinOnce: true"):                                                                   "stdinOnce",
		container("ports: [{containerPort: 0}]"):                                                       "ports: containerPort 0",
		container("ports: [{containerPort: 80, hostPort: 70000}]"):                                     "ports: hostPort 70000",
		container("ports: [{containerPort: 80, protocol: HTTP}]"):                                      "ports: protocol \"HTTP\"",
		container("ports: [{containerPort: 80, hostIP: here}]"):                                        "ports: hostIP",
		container("ports: [{containerPort: 80, hostPort: 8080}, {containerPort: 81, hostPort: 8080}]"): "hostPort 8080",
		container("ports: [{containerPort: 80, name: web}, {containerPort: 81, name: web}]"):           "name \"web\" is there twice",
		hosted("ports: [{containerPort: 80, hostPort: 8080}]"):                                         "with hostNetwork",
		container("env: [{name: A=B, value: c}]"):                                                      "env: \"A=B\"",
		container("env: [{value: c}]"):                                                                 "env: \"\"",
		container("env: [{name: A, value: b, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]"):     "env A: value and valueFrom",
		container("env: [{name: A, valueFrom: {fieldRef: {fieldPath: spec.nothing}}}]"):                "env A: fieldRef",
		container("env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}]"):           "env A: valueFrom",
		container("env: [{name: A, valueFrom: {configMapKeyRef: {name: none, key: k}}}]"):              "no ConfigMap \"none\"",
		container("env: [{name: A, valueFrom: {secretKeyRef: {name: none, key: k}}}]"):                 "no Secret \"none\"",
		container("envFrom: [{configMapRef: {name: none}}]"):                                           "envFrom: there is no ConfigMap \"none\"",
		container("envFrom: [{prefix: A}]"):                                                            "envFrom: want",
		container("resources: {limits: {nvidia.com/gpu: 1}}"):                                          "resources.limits.nvidia.com/gpu",
		container("resources: {limits: {memory: -1}}"):                                                 "resources.limits.memory -1",
		container("resources: {limits: {cpu: 1e15}}"):                                                  "resources.limits.cpu",
		container("resources: {limits: {hugepages-2MB: 1}}"):                                           "hugepages-2MB",
		container("resources: {limits: {memory: 1Mi}, requests: {memory: 2Mi}}"):                       "more than the limit",
		container("securityContext: {seccompProfile: {type: unconfined}}"):                             "seccompProfile: type",
		container("securityContext: {appArmorProfile: {type: Localhost}}"):                             "appArmorProfile: type Localhost",
		container("securityContext: {procMount: None}"):                                                "procMount \"None\"",
		container("securityContext: {privileged: true, allowPrivilegeEscalation: false}"):              "allowPrivilegeEscalation",
		container("securityContext: {windowsOptions: {}}"):                                             "windowsOptions",
		container("livenessProbe: {httpGet: {port: 80, scheme: https}}"):                               "livenessProbe: httpGet.scheme \"https\"",
		container("livenessProbe: {successThreshold: 2, tcpSocket: {port: 80}}"):                       "livenessProbe: successThreshold 2",
		container("livenessProbe: {exec: {command: [a]}, tcpSocket: {port: 80}}"):                      "livenessProbe: want one of",
		container("livenessProbe: {grpc: {port: 0}}"):                                                  "livenessProbe: port",
		container("livenessProbe: {periodSeconds: -1, tcpSocket: {port: 80}}"):                         "livenessProbe: a number is negative",
		container("readinessProbe: {terminationGracePeriodSeconds: 3, tcpSocket: {port: 80}}"):         "readinessProbe: terminationGracePeriodSeconds",
		container("lifecycle: {preStop: {}}"):                                                          "lifecycle.preStop: want one of",
		container("lifecycle: {postStart: {tcpSocket: {port: 80}}}"):                                   "lifecycle.postStart: want one of",
		container("lifecycle: {preStop: {sleep: {seconds: -1}}}"):                                      "sleep.seconds -1",
		container("lifecycle: {stopSignal: TERM}"):                                                     "lifecycle.stopSignal \"TERM\": there is no such signal",
		mounted(", mountPropagation: Both", "emptyDir: {}"):                                            "mountPropagation \"Both\"",
		mounted(", mountPropagation: Bidirectional", "emptyDir: {}"):                                   "privileged",
		mounted(", recursiveReadOnly: Enabled", "emptyDir: {}"):                                        "recursiveReadOnly Enabled: want readOnly",
		mounted("}, {name: v, mountPath: /v/", "emptyDir: {}"):                                         "mountPath \"/v/\" is there twice",
		mounted("}, {name: v, mountPath: //", "emptyDir: {}"):                                          "root of the container",
		volume("emptyDir: {}, hostPath: {path: /tmp}"):                                                 "emptyDir and hostPath: want one of",
		volume("persistentVolumeClaim: {claimName: c}"):                                                "persistentVolumeClaim: want one of",
		volume(`downwardAPI: {}`):                                                                      "downwardAPI: want one of",
		"{containers: [{name: a, image: i}], volumes: [{name: v}]}":                                    "no source",
		volume("hostPath: {path: /tmp, type: directory}"):                                              "hostPath.type \"directory\"",
		volume("emptyDir: {medium: memory}"):                                                           "emptyDir.medium \"memory\"",
		volume("emptyDir: {sizeLimit: -1}"):                                                            "sizeLimit",
		volume("configMap: {name: none}"):                                                              "configMap: there is no ConfigMap \"none\"",
		volume("secret: {secretName: none, defaultMode: 256}"):                                         "secret: there is no Secret \"none\"",
		volume("configMap: {name: m, defaultMode: 1000}"):                                              "defaultMode 1000",
		volume("configMap: {name: m, items: [{key: none, path: p}]}"):                                  "no key \"none\"",
		volume("configMap: {name: m, items: [{key: k, path: ../p}]}"):                                  "leaves the volume",
		volume("image: {pullPolicy: Always}"):                                                          "image.reference",
		volume("image: {reference: i, pullPolicy: always}"):                                            "image: pullPolicy \"always\"",
	} {
		text := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {k: v}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: " + spec
		_, err := Read([]byte(text))
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", spec, err, says)
		}
	}
	both := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\n---\r\n"
	if _, err := Read([]byte(both + both + "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: a, image: i}]}")); err == nil || !strings.Contains(err.Error(), "ConfigMap default/m is there twice") {
		t.Error(err)
	}
}

// What says how a container is confined and ended reaches the runtime.
func TestConfined(t *testing.T) {
	p := read(t, `apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  securityContext: {seLinuxOptions: {level: "s0:c1"}, appArmorProfile: {type: Unconfined}}
  containers:
  - name: a
    image: i
    lifecycle: {stopSignal: SIGUSR1}
    securityContext: {appArmorProfile: {type: Localhost, localhostProfile: mine}, seLinuxOptions: {type: t}}
  - {name: b, image: i}
`)
	a, err := p.Container(&p.Pod.Spec.Containers[0], 0, "i", Home(t.TempDir()), Facts{})
	if err != nil {
		t.Fatal(err)
	}
	sc := a.Linux.SecurityContext
	if a.StopSignal != runtimeapi.Signal_SIGNAL_SIGUSR1 || sc.Apparmor.GetLocalhostRef() != "mine" || sc.SelinuxOptions.GetType() != "t" {
		t.Error(a.StopSignal, sc)
	}
	sc = p.security(&p.Pod.Spec.Containers[1])
	if sc.Apparmor.GetProfileType() != runtimeapi.SecurityProfile_Unconfined || sc.SelinuxOptions.GetLevel() != "s0:c1" {
		t.Error(sc)
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

const small = `{apiVersion: v1, kind: Pod, metadata: {name: NAME}, spec: {containers: [{name: c, image: i}]}}`

// A manifest may have documents of comments alone, as charts do, and a List, as kubectl prints.
func TestReadForms(t *testing.T) {
	for name, text := range map[string]string{
		"comments":            "# a chart\n---\n# Source: x.yaml\n---\n" + small + "\n---\n\n# the end\n",
		"comment of CRLF":     "# a chart\r\n---\r\n# Source\r\n---\r\n" + small + "\r\n",
		"list":                "apiVersion: v1\nkind: List\nmetadata: {resourceVersion: \"\"}\nitems:\n- " + small + "\n",
		"list of JSON":        `{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Pod","metadata":{"name":"NAME"},"spec":{"containers":[{"name":"c","image":"i"}]}}]}`,
		"null and an own end": "null\n---\n" + small + "\n...\n",
	} {
		pods, err := Read([]byte(strings.ReplaceAll(text, "NAME", "p")))
		if err != nil || len(pods) != 1 || pods[0].Key() != "default/p" {
			t.Errorf("%s: %v, %v", name, pods, err)
		}
	}
	for text, says := range map[string]string{
		small + "\n---\nkind: [\n":                                            "document 2:",
		small + "\n---\nkind: Deployment\n":                                   "document 2:",
		"apiVersion: v1\nkind: List\nitems: [{}]\n":                           "items[0]: a document has no kind",
		"apiVersion: v1\nkind: List\nitem: []\n":                              `unknown field "item"`,
		"{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: List}]}": "a List in a List",
		"hello": "no object",
		strings.Replace(small, "image: i", `image: i, resources: {limits: {cpu: 1, memory: ""}}`, 1):         "spec.containers[0].resources.limits.memory: quantities must",
		strings.Replace(small, "image: i", `image: i, ports: [{containerPort: 1}, {containerPort: "x"}]`, 1): "spec.containers[0].ports[1].containerPort: ",
		strings.Replace(small, "image: i", `image: i, imagee: i`, 1):                                         "spec.containers[0].imagee: unknown field",
		strings.Replace(small, "name: NAME", `name: n, creationTimestamp: never`, 1):                         "metadata.creationTimestamp: ",
	} {
		if _, err := Read([]byte(text)); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", text, err, says)
		}
	}
}

// Many wrong fields do not make the search for one long.
func TestWrongFieldIsBounded(t *testing.T) {
	text := strings.Replace(small, "image: i", "image: i, args: ["+strings.Repeat("[], ", 10000)+"[]]", 1)
	if _, err := Read([]byte(text)); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}

// Volumes of the pod's own are fsGroup's: its users read the files, and write to directories, also to parts that are made.
func TestFSGroup(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	const text = `
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  SECURITY
  containers: [{name: c, image: i, volumeMounts: [{name: e, mountPath: /e, subPath: a/b}]}]
  volumes: [{name: e, emptyDir: {}}, {name: s, secret: {secretName: s, defaultMode: 0400, items: [{key: k, path: d/k}]}}]
---
{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {k: v}}
`
	defer syscall.Umask(syscall.Umask(0o077))
	for security, want := range map[string]map[string]string{
		"":                                 {"e": "drwxrwxrwx 0", "e/a": "drwxrwxrwx 0", "e/a/b": "drwxrwxrwx 0", "s/d/k": "-r-------- 0"},
		"securityContext: {fsGroup: 2000}": {"e": "dgrwxrwxrwx 2000", "e/a": "dgrwxrwxrwx 2000", "e/a/b": "dgrwxrwxrwx 2000", "s": "dgrwxr-xr-x 2000", "s/d/k": "-r--r----- 2000"},
	} {
		p := read(t, strings.Replace(text, "SECURITY", security, 1))
		h := Home(filepath.Join(t.TempDir(), "u"))
		for range 2 { // also once more
			if err := p.Prepare(h); err != nil {
				t.Fatal(err)
			}
		}
		root, err := os.OpenRoot(h.volume("e"))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(makePart(root, "a/b"), makePart(root, "a/b"), root.Close()); err != nil {
			t.Fatal(err)
		}
		for name, want := range want {
			st, err := os.Stat(filepath.Join(string(h), dirVolumes, name))
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprintf("%v %d", st.Mode(), st.Sys().(*syscall.Stat_t).Gid); got != want {
				t.Errorf("%q: %s: %s, want %s", security, name, got, want)
			}
		}
	}
}

// A pod on the host's network has the names that the host has, beside those of the manifest.
func TestHostsOfHost(t *testing.T) {
	text := strings.Replace(small, "spec: {", "spec: {hostAliases: [{ip: 1.2.3.4, hostnames: [foo]}], hostNetwork: true, ", 1)
	p := read(t, strings.Replace(text, "NAME", "p", 1))
	at, err := p.writeHosts(Home(t.TempDir()), Facts{IPs: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(at)
	if err != nil {
		t.Fatal(err)
	}
	host, err := os.ReadFile(hostsOfHost)
	if err != nil {
		t.Skip(err)
	}
	if want := strings.TrimRight(string(host), "\n") + "\n1.2.3.4\tfoo\n"; string(got) != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// Bounds are in the kernel's range, and one that nothing could start in is refused by its own name.
func TestOddResources(t *testing.T) {
	with := func(limits string) string {
		return strings.NewReplacer("NAME", "p", "image: i", "image: i, resources: {limits: {"+limits+"}}").Replace(small)
	}
	for cpu, want := range map[string]int64{"1e-9": 2, "1m": 2, "1e3": maxShares, "1048576": maxShares, "0.5": 512} {
		if got := resources(read(t, with("cpu: "+cpu)).Pod.Spec.Containers[0].Resources).CpuShares; got != want {
			t.Errorf("cpu %s: %d shares, want %d", cpu, got, want)
		}
	}
	for memory, says := range map[string]string{"100m": "resources.limits.memory 100m is 1 bytes", "1e3": "resources.limits.memory 1k is 1000 bytes"} {
		if _, err := Read([]byte(with("memory: " + memory))); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("memory %s: %v", memory, err)
		}
	}
	for _, memory := range []string{"0", "4Ki", "0.5Gi", "1e30"} {
		if _, err := Read([]byte(with("memory: " + memory))); err != nil {
			t.Errorf("memory %s: %v", memory, err)
		}
	}
}

// A directory that is made in a volume has the volume's mode when it appears, whatever a making that was killed, or a program of the
// pod, has left there.
func TestPartMode(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	outside := filepath.Join(t.TempDir(), "outside")
	err = errors.Join(os.Mkdir(outside, 0o700), os.MkdirAll(filepath.Join(dir, ".ctrd-making/x"), 0o700), os.Mkdir(filepath.Join(dir, "a"), 0o700),
		os.Symlink(outside, filepath.Join(dir, "a/.ctrd-making")), os.Symlink(outside, filepath.Join(dir, "link")))
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"n", "a/b/c", "link/d"} { // that a link leads out shows where it is opened
		if err := makePart(root, part); err != nil {
			t.Errorf("%s: %v", part, err)
		}
	}
	for name, want := range map[string]fs.FileMode{"n": 0o777, "a": 0o700, "a/b": 0o777, "a/b/c": 0o777} {
		if st, err := os.Lstat(filepath.Join(dir, name)); err != nil || st.Mode().Perm() != want || !st.IsDir() {
			t.Errorf("%s: %v, %v", name, st, err)
		}
	}
	st, err := os.Stat(outside)
	if made, rerr := os.ReadDir(outside); err != nil || rerr != nil || st.Mode().Perm() != 0o700 || len(made) > 0 {
		t.Errorf("outside: %v, %v, %v", st, made, errors.Join(err, rerr))
	}
	for _, name := range []string{".ctrd-making", "a/.ctrd-making"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", name, err)
		}
	}
}
