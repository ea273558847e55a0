// SPDX-License-Identifier: Apache-2.0

package cri_test

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/test/world"
)

// pluginProgram builds the plugin once.
var pluginProgram = sync.OnceValues(func() (string, error) {
	program := filepath.Join(site.Top, "build", "nri-plugin")
	if out, err := exec.Command("go", "build", "-trimpath", "-o", program, "./plugin").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return program, nil
})

// plugin is a plugin of NRI that is connected.
type plugin struct {
	*exec.Cmd
	file string
}

func buildPlugin(t *testing.T) string {
	t.Helper()
	program, err := pluginProgram()
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// plug starts a plugin, and waits until it has been shown what there is.
func (h *host) plug(t *testing.T, name string, args ...string) *plugin {
	t.Helper()
	p := &plugin{file: filepath.Join(h.Dir, name+".events")}
	socket := filepath.Join(h.State, "nri.sock")
	until(t, "the socket of NRI", func() bool {
		c, err := net.Dial("unix", socket)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	p.Cmd = exec.Command(buildPlugin(t), append([]string{"-socket", socket, "-file", p.file}, args...)...)
	p.Cmd.Stderr = os.Stderr
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Process.Kill(); p.Wait() })
	until(t, "a plugin to come in", func() bool { return slices.Contains(p.events(), "synchronize") })
	return p
}

// events is what the plugin has been told.
func (p *plugin) events() []string {
	text, _ := os.ReadFile(p.file)
	return strings.FieldsFunc(string(text), func(r rune) bool { return r == '\n' })
}

// want waits for the events, in this order and no others.
func (p *plugin) want(t *testing.T, all ...string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !slices.Equal(p.events(), all) {
		if time.Now().After(deadline) {
			t.Fatalf("told:\n%s\nwant:\n%s", strings.Join(p.events(), "\n"), strings.Join(all, "\n"))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// A plugin is asked about all that is done, and changes what it wants.
func TestPlugin(t *testing.T) {
	h := newHost(t)
	h.pull(t)
	p := h.plug(t, "one")
	pod, config := h.pod(t, "p")
	st, err := h.PodSandboxStatus(h.ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil {
		t.Fatal(err)
	}
	other := h.container(t, pod, config, "other", "exec sleep 1000", nil)
	dir := filepath.Join(h.Dir, "given")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("of the plugin"), 0o644); err != nil {
		t.Fatal(err)
	}
	id := h.container(t, pod, config, "c", `
		echo "$FROM_PLUGIN,$UNWANTED,$WANTED"; cat /from-plugin/file; echo; touch /from-plugin/new 2>/dev/null || echo read-only
		ulimit -n; ulimit -Hn; ls -l /dev/from-plugin | cut -c1-10; cat /proc/self/oom_score_adj; cat /proc/sys/net/ipv4/ip_default_ttl
		exec sleep 1000`, func(c *runtimeapi.ContainerConfig) {
		c.Annotations = map[string]string{"test/change": dir, "test/other": other}
		c.Envs = []*runtimeapi.KeyValue{{Key: "UNWANTED", Value: []byte("no")}, {Key: "WANTED", Value: []byte("w")}}
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{OomScoreAdj: 500}
	})
	const says = "yes,,w\nof the plugin\nread-only\n1234\n4321\ncrw-rw-rw-\n512\n77\n"
	log := h.status(t, id).LogPath
	until(t, "what the container says", func() bool { return strings.HasSuffix(text(t, log)["stdout"], "77\n") })
	if got := text(t, log)["stdout"]; got != says {
		t.Errorf("it says %q, want %q", got, says)
	}
	if _, err := os.Stat(filepath.Join(dir, "hook")); err != nil {
		t.Errorf("the plugin's hook: %v", err)
	}
	linux := func(id string) *runtimeapi.LinuxContainerResources { return h.status(t, id).GetResources().GetLinux() }
	if r := linux(id); r.GetMemoryLimitInBytes() != 64<<20 || r.GetCpuShares() != 77 {
		t.Errorf("bounds: %v", r)
	}
	if r := linux(other); r.GetMemoryLimitInBytes() != 80<<20 {
		t.Errorf("bounds of another container: %v", r)
	}
	// It raises what is asked for, and then changes the container by itself.
	if _, err := h.UpdateContainerResources(h.ctx, &runtimeapi.UpdateContainerResourcesRequest{
		ContainerId: id, Linux: &runtimeapi.LinuxContainerResources{CpuShares: 50},
	}); err != nil {
		t.Fatal(err)
	}
	until(t, "the plugin's own change", func() bool { return linux(id).GetMemoryLimitInBytes() == 96<<20 })
	if r := linux(id); r.GetCpuShares() != 100 {
		t.Errorf("bounds after an update: %v", r)
	}
	if _, err := h.UpdatePodSandboxResources(h.ctx, &runtimeapi.UpdatePodSandboxResourcesRequest{
		PodSandboxId: pod, Resources: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 1 << 30},
	}); err != nil {
		t.Fatal(err)
	}
	// One that ends by itself is told, too, and once.
	end := h.container(t, pod, config, "end", "until test -e /go; do sleep 0.05; done; exit 3", nil)
	if _, err := h.ExecSync(h.ctx, &runtimeapi.ExecSyncRequest{ContainerId: end, Cmd: []string{"touch", "/go"}}); err != nil {
		t.Fatal(err)
	}
	until(t, "its end", func() bool { return h.status(t, end).State == runtimeapi.ContainerState_CONTAINER_EXITED })
	until(t, "the plugin to know", func() bool { return slices.Contains(p.events(), "stop p end CONTAINER_STOPPED 3") })
	for _, c := range []string{id, end} {
		if _, err := h.StopContainer(h.ctx, &runtimeapi.StopContainerRequest{ContainerId: c}); err != nil {
			t.Fatal(err)
		}
		if _, err := h.RemoveContainer(h.ctx, &runtimeapi.RemoveContainerRequest{ContainerId: c}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if _, err := h.StopPodSandbox(h.ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.RemovePodSandbox(h.ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	p.want(t, "synchronize", "run-pod p "+st.GetStatus().GetNetwork().GetIp(),
		"create p other", "created p other", "start p other", "started p other CONTAINER_RUNNING",
		"create p c", "created p c", "start p c", "started p c CONTAINER_RUNNING",
		"update p c", "updated p c", "unasked 1 <nil>", "update-pod p 1073741824", "updated-pod p",
		"create p end", "created p end", "start p end", "started p end CONTAINER_RUNNING", "stop p end CONTAINER_STOPPED 3",
		"stop p c CONTAINER_STOPPED 137", "remove p c", "remove p end",
		"stop p other CONTAINER_STOPPED 137", "stop-pod p", "remove p other", "remove-pod p")
}

// A plugin that does not answer is dropped, one that is killed is not missed, and one that objects is heeded; nothing is left of
// what was refused.
func TestPluginFaults(t *testing.T) {
	h := newHostWith(t, "[cri.nri]\nplugin_request_timeout = \"500ms\"\n")
	h.pull(t)
	pod, config := h.pod(t, "p")
	bounded := func(what string, call func()) {
		t.Helper()
		since := time.Now()
		call()
		if took := time.Since(since); took > 5*time.Second {
			t.Errorf("%s took %v", what, took)
		}
	}
	for _, event := range []string{"run-pod", "create", "start", "started", "stop", "remove", "stop-pod", "remove-pod"} {
		p := h.plug(t, "hangs-at-"+event, "-hang", event)
		bounded(event, func() {
			id, config := h.pod(t, event)
			c := h.container(t, id, config, "c", "exec sleep 1000", nil)
			for _, err := range []error{
				second(h.StopContainer(h.ctx, &runtimeapi.StopContainerRequest{ContainerId: c})),
				second(h.RemoveContainer(h.ctx, &runtimeapi.RemoveContainerRequest{ContainerId: c})),
				second(h.StopPodSandbox(h.ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id})),
				second(h.RemovePodSandbox(h.ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id})),
			} {
				if err != nil {
					t.Errorf("%s: %v", event, err)
				}
			}
		})
		until(t, "a plugin that is dropped to see it", func() bool { return slices.Contains(p.events(), "end") })
		if all := p.events(); !strings.HasPrefix(all[len(all)-2], event+" ") {
			t.Errorf("after it did not answer %s it was told %q", event, all)
		}
		p.Process.Kill()
	}
	// One that never answers what it is shown does not come in, and holds nobody up for long.
	socket := filepath.Join(h.State, "nri.sock")
	late := exec.Command(buildPlugin(t), "-socket", socket, "-file", filepath.Join(h.Dir, "late"), "-hang", "synchronize")
	if err := late.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { late.Process.Kill(); late.Wait() }()
	until(t, "it to be shown", func() bool {
		text, _ := os.ReadFile(filepath.Join(h.Dir, "late"))
		return strings.Contains(string(text), "synchronize")
	})
	since := time.Now()
	h.container(t, pod, config, "meanwhile", "exec sleep 1000", nil)
	if took := time.Since(since); took > 8*time.Second {
		t.Errorf("a container took %v while a plugin came in", took)
	}
	killed := h.plug(t, "killed")
	killed.Process.Signal(syscall.SIGKILL)
	killed.Wait()
	bounded("killed", func() { h.container(t, pod, config, "after", "exec sleep 1000", nil) })

	denies := h.plug(t, "denies", "-deny", "create")
	c := &runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{Name: "denied"}, Image: &runtimeapi.ImageSpec{Image: busybox()}}
	if _, err := h.CreateContainer(h.ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: config}); err == nil || !strings.Contains(err.Error(), "create is not allowed") {
		t.Errorf("a container that a plugin refuses: %v", err)
	}
	if l, err := h.ListContainers(h.ctx, &runtimeapi.ListContainersRequest{}); err != nil || len(l.Containers) != 2 {
		t.Errorf("after one that was refused: %v, %v", l, err)
	}
	denies.Process.Kill()
	denies.Wait()
	h.plug(t, "denies-pods", "-deny", "run-pod")
	q := &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: "q", Uid: "q", Namespace: "test"}}
	if _, err := h.RunPodSandbox(h.ctx, &runtimeapi.RunPodSandboxRequest{Config: q}); err == nil || !strings.Contains(err.Error(), "run-pod is not allowed") {
		t.Errorf("a pod that a plugin refuses: %v", err)
	}
	if l, err := h.ListPodSandbox(h.ctx, &runtimeapi.ListPodSandboxRequest{}); err != nil || len(l.Items) != 1 {
		t.Errorf("after one that was refused: %v, %v", l, err)
	}
}

// A ctrd that is killed while a plugin thinks leaves nothing that is in the way of the next one.
func TestPluginServerKilled(t *testing.T) {
	h := newHostWith(t, "[cri.nri]\nplugin_request_timeout = \"1m\"\n")
	h.pull(t)
	for _, event := range lifeEvents {
		p := h.plug(t, event, "-hang", event)
		hangs := make(chan struct{})
		ctx, cancel := context.WithCancel(h.ctx)
		go func() { // calls until the one that hangs
			defer close(hangs)
			h.live(ctx, event)
		}()
		p.hangs(t, event)
		h.kill(t)
		cancel()
		<-hangs
		p.Process.Kill()
		if err := h.live(h.ctx, event); err != nil {
			t.Errorf("after a kill at %s: %v", event, err)
		}
	}
	if l, err := h.ListPodSandbox(h.ctx, &runtimeapi.ListPodSandboxRequest{}); err != nil || len(l.Items) > 0 {
		t.Errorf("pods that are left: %v, %v", l, err)
	}
}

// A ctrd that is killed at a crash point while a plugin is connected leaves nothing that is in the way of the next one, nor of a plugin that
// connects to that: the same life of a pod is gone through, and told to its end.
func TestPluginCrashed(t *testing.T) {
	bin := t.TempDir()
	for _, dir := range []string{filepath.Dir(bin), bin} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := world.Build(site.Top, bin, "crashpoints"); err != nil {
		t.Fatal(err)
	}
	h := newHostOf(t, bin, "")
	h.pull(t)
	env := h.Env
	for _, point := range []string{"pod.connected", "pod.ready", "pod.container-created", "task.created", "pod.ended", "pod.stopped", "pod.emptied"} {
		h.Env = append(slices.Clip(env), "CTRD_CRASH="+point)
		h.kill(t)
		p := h.plug(t, point)
		if err := h.live(h.ctx, point); err == nil {
			t.Errorf("%s: no call of a pod's life comes there", point)
		}
		h.Env = env
		if err := h.serve.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
			t.Errorf("%s: ctrd ended with %v", point, err)
		}
		until(t, "the plugin to see it", func() bool { return slices.Contains(p.events(), "end") })
		h.kill(t)
		next := h.plug(t, point+"-next")
		if err := h.live(h.ctx, point); err != nil {
			t.Errorf("after a kill at %s: %v", point, err)
		}
		if all := next.events(); all[len(all)-1] != "remove-pod "+point {
			t.Errorf("after a kill at %s the next plugin was told %q", point, all)
		}
		next.Process.Kill()
	}
	if l, err := h.ListPodSandbox(h.ctx, &runtimeapi.ListPodSandboxRequest{}); err != nil || len(l.Items) > 0 {
		t.Errorf("pods that are left: %v, %v", l, err)
	}
}

// lifeEvents is what a plugin is told in the life of a pod with one container, in this order.
var lifeEvents = []string{"run-pod", "create", "created", "start", "started", "update", "updated", "update-pod", "updated-pod", "stop", "stop-pod", "remove", "remove-pod"}

// hangs waits until the plugin has been told an event that it does not answer.
func (p *plugin) hangs(t *testing.T, event string) {
	t.Helper()
	until(t, "the plugin to hang", func() bool {
		return slices.ContainsFunc(p.events(), func(e string) bool { return strings.HasPrefix(e, event+" ") })
	})
}

// A plugin that is killed while it thinks holds nobody up, and what it was asked about is done.
func TestPluginKilled(t *testing.T) {
	h := newHostWith(t, "[cri.nri]\nplugin_request_timeout = \"1m\"\n")
	h.pull(t)
	for _, event := range lifeEvents {
		p := h.plug(t, event, "-hang", event)
		lived := make(chan error, 1)
		go func() { lived <- h.live(h.ctx, event) }()
		p.hangs(t, event)
		p.Process.Kill()
		select {
		case err := <-lived:
			if err != nil {
				t.Errorf("killed at %s: %v", event, err)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("killed at %s: the call waits for it", event)
		}
	}
	if l, err := h.ListPodSandbox(h.ctx, &runtimeapi.ListPodSandboxRequest{}); err != nil || len(l.Items) > 0 {
		t.Errorf("pods that are left: %v, %v", l, err)
	}
}

// live is the whole life of a pod with one container.
func (h *host) live(ctx context.Context, name string) error {
	config := &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Uid: name, Namespace: "test"}, Linux: &runtimeapi.LinuxPodSandboxConfig{}}
	pod, err := h.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config})
	if err != nil {
		return err
	}
	c := &runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: busybox()}, Command: []string{"sleep", "1000"}}
	made, err := h.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: pod.PodSandboxId, Config: c, SandboxConfig: config})
	if err != nil {
		return err
	}
	if st, err := h.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: made.ContainerId}); err != nil || st.Status.State != runtimeapi.ContainerState_CONTAINER_EXITED {
		if _, err := h.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: made.ContainerId}); err != nil {
			return err
		}
		r := &runtimeapi.LinuxContainerResources{CpuShares: 200}
		if _, err := h.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: made.ContainerId, Linux: r}); err != nil {
			return err
		}
		if _, err := h.UpdatePodSandboxResources(ctx, &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: pod.PodSandboxId, Resources: r}); err != nil {
			return err
		}
	}
	if _, err := h.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: made.ContainerId}); err != nil {
		return err
	}
	if _, err := h.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: pod.PodSandboxId}); err != nil {
		return err
	}
	_, err = h.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod.PodSandboxId})
	return err
}

// second leaves the answer out.
func second[A any](_ A, err error) error { return err }

// A plugin that comes while containers are made, started and removed knows all that is there, and is told of the end of all that it knows.
func TestPluginComesMeanwhile(t *testing.T) {
	h := newHost(t)
	h.pull(t)
	pod, config := h.pod(t, "p")
	first := h.plug(t, "first") // the server has one, and has not any more
	first.Process.Kill()
	first.Wait()
	h.container(t, pod, config, "before", "exec sleep 1000", nil)
	var made sync.WaitGroup
	over := make(chan struct{})
	for i := range 3 {
		made.Go(func() {
			for n := 0; ; n++ {
				id := h.container(t, pod, config, fmt.Sprintf("c%d-%d", i, n), "exec sleep 1000", nil)
				select {
				case <-over:
					return
				default:
				}
				if _, err := h.RemoveContainer(context.WithoutCancel(h.ctx), &runtimeapi.RemoveContainerRequest{ContainerId: id}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	var late []*plugin
	for i := range 3 {
		late = append(late, h.plug(t, fmt.Sprint("late", i), "-index", fmt.Sprint(20+i)))
		time.Sleep(200 * time.Millisecond)
	}
	close(over)
	made.Wait()
	list, err := h.ListContainers(h.ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, c := range list.GetContainers() {
		left = append(left, c.GetMetadata().GetName())
	}
	slices.Sort(left)
	for _, p := range late {
		knows := map[string]bool{}
		for _, e := range p.events() {
			switch f := strings.Fields(e); f[0] {
			case "has-container":
				knows[f[1]] = true
			case "create":
				knows[f[2]] = true
			case "start", "started", "stop":
				if !knows[f[2]] {
					t.Errorf("%q of one that is unknown", e)
				}
			case "remove":
				delete(knows, f[2]) // or of one that was being removed when the plugin came
			}
		}
		if got := slices.Sorted(maps.Keys(knows)); !slices.Equal(got, left) {
			t.Errorf("left to a plugin: %q, want %q\n%s", got, left, strings.Join(p.events(), "\n"))
		}
	}
}

// A plugin that comes late is shown what there is, also by a ctrd that has been killed; what is made while it comes in is not lost; and the
// server starts those in its directory.
func TestPluginComesLate(t *testing.T) {
	plugins := t.TempDir()
	events := filepath.Join(plugins, "events")
	for _, f := range []struct{ name, text string }{{"test.conf", fmt.Sprintf(`{"file": %q}`, events)}} {
		if err := os.MkdirAll(filepath.Join(plugins, "conf"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(plugins, "conf", f.name), []byte(f.text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	program, err := os.ReadFile(buildPlugin(t))
	if err == nil {
		err = os.MkdirAll(filepath.Join(plugins, "bin"), 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(plugins, "bin", "20-test"), program, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	h := newHostWith(t, fmt.Sprintf("[cri.nri]\nplugin_path = %q\nplugin_config_path = %q\n", filepath.Join(plugins, "bin"), filepath.Join(plugins, "conf")))
	h.pull(t)
	pod, config := h.pod(t, "p")
	h.container(t, pod, config, "runs", "exec sleep 1000", nil)
	ends := h.container(t, pod, config, "ends", "true", nil)
	until(t, "its end", func() bool { return h.status(t, ends).State == runtimeapi.ContainerState_CONTAINER_EXITED })
	started := &plugin{file: events}
	until(t, "the plugin that the server has started", func() bool { return slices.Contains(started.events(), "stop p ends CONTAINER_STOPPED 0") })

	shown := []string{"has-container ends CONTAINER_STOPPED", "has-container runs CONTAINER_RUNNING", "has-pod p", "synchronize"}
	late := h.plug(t, "late")
	if all := slices.Sorted(slices.Values(late.events())); !slices.Equal(all, shown) {
		t.Errorf("shown: %q", all)
	}
	h.kill(t)
	for _, p := range []*plugin{late, started} {
		until(t, "the plugins of a killed server to end", func() bool { return slices.Contains(p.events(), "end") })
	}
	os.Remove(late.file)
	late = h.plug(t, "late")
	if all := slices.Sorted(slices.Values(late.events())); !slices.Equal(all, shown) {
		t.Errorf("shown by the next server: %q", all)
	}
	// What it has been shown as ended is told no more.
	if _, err := h.StopContainer(h.ctx, &runtimeapi.StopContainerRequest{ContainerId: ends}); err != nil {
		t.Fatal(err)
	}
	var made sync.WaitGroup
	for i := range 6 {
		made.Go(func() {
			c := &runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{Name: fmt.Sprint("made", i)}, Image: &runtimeapi.ImageSpec{Image: busybox()}}
			if _, err := h.CreateContainer(context.WithoutCancel(h.ctx), &runtimeapi.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: config}); err != nil {
				t.Error(err)
			}
		})
	}
	second := h.plug(t, "second", "-index", "30")
	made.Wait()
	for i := range 6 {
		all := second.events()
		if !slices.Contains(all, fmt.Sprintf("create p made%d", i)) && !slices.Contains(all, fmt.Sprintf("has-container made%d CONTAINER_CREATED", i)) {
			t.Errorf("made%d is unknown to who came in meanwhile: %q", i, all)
		}
	}
	if slices.ContainsFunc(late.events(), func(e string) bool { return strings.HasPrefix(e, "stop ") }) {
		t.Errorf("told again: %q", late.events())
	}
}
