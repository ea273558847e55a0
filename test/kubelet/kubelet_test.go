// SPDX-License-Identifier: Apache-2.0

// Package kubelet tests ctrd under a real kubelet, in a systemd that scripts/nsboot boots: static pods, on the CRI socket
// that systemd activates. It is a module of its own, from which the kubelet is built: make test-kubelet.
package kubelet

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
)

// The source tree, the commands, the kubelet, and how long anything may take that is waited for.
var (
	top, _  = filepath.Abs("../..")
	bin     = filepath.Join(top, "bin")
	kubelet = os.Getenv("KUBELET")
)

const patience = 3 * time.Minute

// machine is a systemd with ctrd's socket units and a kubelet.
type machine struct {
	dir   string // on the disk of the host
	boot  string // nsboot's
	image string
}

// start boots the machine.
func start(t *testing.T) *machine {
	t.Helper()
	if kubelet == "" {
		t.Fatal("KUBELET names no kubelet: make test-kubelet builds one")
	}
	dir, err := os.MkdirTemp("", "ctrd-kubelet-")
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{dir: dir, boot: filepath.Join("/run", filepath.Base(dir))}
	m.pull(t)
	m.must(t, exec.Command("make", "-s", "-C", top, "-o", "build", "install", "BIN="+bin, "DESTDIR="+filepath.Join(dir, "installed")))
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := m.try(`journalctl --no-pager -u ctrd -u kubelet | tail -n 150`)
			t.Log(out)
		}
		m.try(`systemctl stop kubelet; ctr-cri rmp -fa; systemctl stop ctrd.socket ctrd-cri.socket ctrd`)
		if out, err := m.nsboot("stop").CombinedOutput(); err != nil {
			t.Errorf("nsboot stop: %v: %s", err, out)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	m.must(t, m.nsboot("start", "hybrid"))
	m.sh(t, setup)
	return m
}

// pull brings the image into the namespace of the kubelet, from a registry that is no longer there in the machine.
func (m *machine) pull(t *testing.T) {
	t.Helper()
	cmd := exec.Command(filepath.Join(top, "build/mkimages"), "-dir", filepath.Join(top, "build/images"))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v: make e2e builds it", err)
	}
	defer cmd.Wait()
	defer in.Close()
	buf := make([]byte, 256)
	n, err := out.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	m.image = strings.TrimSpace(string(buf[:n])) + "/busybox:1"
	m.must(t, m.command(filepath.Join(bin, "ctr-cri"), "pull", m.image))
}

// command is one of ours, on the machine's state directory.
func (m *machine) command(args ...string) *exec.Cmd {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "CTRD_ROOT="+m.dir+"/root", "CTRD_STATE="+m.dir+"/state")
	return cmd
}

func (m *machine) nsboot(args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(top, "scripts/nsboot"), args...)
	cmd.Env = append(os.Environ(), "NSBOOT_DIR="+m.boot, "NSBOOT_BIND="+m.dir+":"+m.dir+" "+filepath.Dir(kubelet)+":/opt/kubelet")
	return cmd
}

func (m *machine) must(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", cmd, err, out)
	}
	return string(out)
}

// try runs a script of bash in the machine.
func (m *machine) try(script string) (string, error) {
	cmd := m.nsboot("exec", "env", "DIR="+m.dir, "IMG="+m.image, "CTRD_ROOT="+m.dir+"/root", "CTRD_STATE="+m.dir+"/state", "KUBELET=/opt/kubelet/"+filepath.Base(kubelet),
		"bash", "-euo", "pipefail", "-c", script)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (m *machine) sh(t *testing.T, script string) string {
	t.Helper()
	out, err := m.try(script)
	if err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
	return out
}

// setup installs ctrd, gives the machine a node's address and a network of pods, and starts the socket and the kubelet. What the
// kubelet writes to global sysctls goes to scratch files.
const setup = `
	cp -a $DIR/installed/usr/local/. /usr/local/
	mkdir -p /etc/systemd/system/ctrd.service.d /etc/cni/net.d /etc/kubernetes/manifests /var/lib/kubelet /run/scratch
	cat >/etc/systemd/system/ctrd.service.d/test.conf <<-END
		[Service]
		Environment=CTRD_ROOT=$CTRD_ROOT CTRD_STATE=$CTRD_STATE
		ExecStart=
		ExecStart=/usr/local/bin/ctrd serve --idle-timeout 5s
	END
	for s in ctrd ctrd-cri; do
		mkdir -p /etc/systemd/system/$s.socket.d
		printf '[Socket]\nTriggerLimitIntervalSec=0\n' >/etc/systemd/system/$s.socket.d/test.conf
	done
	cat >/etc/cni/net.d/10-pods.conflist <<-END
		{"cniVersion": "1.0.0", "name": "pods", "plugins": [
		  {"type": "bridge", "bridge": "pods0", "isGateway": true, "ipMasq": false, "ipam": {"type": "host-local", "dataDir": "/run/pods-ipam", "ranges": [[{"subnet": "10.201.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
		  {"type": "portmap", "capabilities": {"portMappings": true}}]}
	END
	ip link add node0 type veth peer name node1
	ip addr add 10.200.0.1/24 dev node0
	ip link set node0 up
	ip link set node1 up
	ip route add default via 10.200.0.2
	echo 1 >/proc/sys/net/ipv4/ip_forward
	mount -o remount,bind,rw /proc/sys 2>/dev/null || :
	for s in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
		mkdir -p /run/scratch/$(dirname $s)
		cat /proc/sys/$s >/run/scratch/$s
		mount --bind /run/scratch/$s /proc/sys/$s
	done
	cat >/etc/kubernetes/kubelet.yaml <<-END
		apiVersion: kubelet.config.k8s.io/v1beta1
		kind: KubeletConfiguration
		containerRuntimeEndpoint: unix:///run/ctrd/cri.sock
		staticPodPath: /etc/kubernetes/manifests
		fileCheckFrequency: 1s
		syncFrequency: 5s
		authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
		authorization: {mode: AlwaysAllow}
		failSwapOn: false
		failCgroupV1: false
		registerNode: false
		enforceNodeAllocatable: []
		makeIPTablesUtilChains: false
		resolvConf: ""
		evictionHard: {memory.available: 1Mi, nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%", imagefs.inodesFree: "0%", pid.available: "0%"}
		imageGCHighThresholdPercent: 100
		imageGCLowThresholdPercent: 99
	END
	systemctl daemon-reload
	systemctl start ctrd.socket ctrd-cri.socket
	if systemctl is-active -q ctrd; then echo "ctrd runs before anybody has asked for it"; exit 1; fi
	systemd-run -q --unit=kubelet -p Restart=on-failure $KUBELET --config /etc/kubernetes/kubelet.yaml --node-ip 10.200.0.1 --hostname-override node --v 2
`

// pod puts a manifest where the kubelet looks.
func (m *machine) pod(t *testing.T, name, spec string) {
	t.Helper()
	text := "apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + "}\nspec:\n" + strings.ReplaceAll(spec, "IMG", m.image)
	m.sh(t, "cat >/etc/kubernetes/"+name+".new <<'END'\n"+text+"\nEND\nmv /etc/kubernetes/"+name+".new /etc/kubernetes/manifests/"+name+".yaml")
}

// dial connects to the kubelet, within the machine's network namespace.
func (m *machine) dial(ctx context.Context, network, address string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // and no unlock: the thread ends with the goroutine
		pid, err := os.ReadFile(filepath.Join(m.boot, "pid"))
		if err == nil {
			var fd int
			if fd, err = unix.Open("/proc/"+strings.TrimSpace(string(pid))+"/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
				err = unix.Setns(fd, unix.CLONE_NEWNET)
				unix.Close(fd)
			}
		}
		if err != nil {
			done <- result{err: err}
			return
		}
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

// proxy listens on this host's loopback, and passes connections on to the kubelet: clients of streams dial by themselves.
func (m *machine) proxy(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				to, err := m.dial(context.Background(), "tcp", strings.TrimPrefix(api, "https://"))
				if err != nil {
					return
				}
				defer to.Close()
				go func() {
					io.Copy(to, c)
					to.(*net.TCPConn).CloseWrite()
				}()
				io.Copy(c, to)
			}()
		}
	}()
	return l.Addr().String()
}

// api is where the kubelet listens.
const api = "https://127.0.0.1:10250"

func (m *machine) get(path string) ([]byte, error) {
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DialContext: m.dial, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	answer, err := client.Get(api + path)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", path, answer.Status, data)
	}
	return data, err
}

// status is the kubelet's view of a pod, nil where it has none.
func (m *machine) status(name string) (*corev1.Pod, error) {
	data, err := m.get("/pods")
	if err != nil {
		return nil, err
	}
	var all corev1.PodList
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, err
	}
	for i := range all.Items {
		if all.Items[i].Name == name+"-node" {
			return &all.Items[i], nil
		}
	}
	return nil, nil
}

// until waits until the kubelet's view of a pod is as wanted.
func (m *machine) until(t *testing.T, name, what string, want func(p *corev1.Pod) bool) *corev1.Pod {
	t.Helper()
	var last *corev1.Pod
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if last, err = m.status(name); err == nil && want(last) {
			return last
		}
	}
	text, _ := json.MarshalIndent(last, "", " ")
	t.Fatalf("pod %s is never %s: %v: %s", name, what, err, text)
	return nil
}

func ready(p *corev1.Pod) bool {
	if p == nil {
		return false
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func restarted(n int32) func(p *corev1.Pod) bool {
	return func(p *corev1.Pod) bool {
		return ready(p) && p.Status.ContainerStatuses[0].RestartCount >= n
	}
}

const web = `
  terminationGracePeriodSeconds: 2
  initContainers:
  - {name: page, image: IMG, command: [sh, -c, "echo hello >/www/index.html"], volumeMounts: [{name: www, mountPath: /www}]}
  containers:
  - name: main
    image: IMG
    command: [sh, -c, "rm -f /www/ill; echo begin; exec httpd -f -p 8080 -h /www"]
    ports: [{containerPort: 8080, hostPort: 9080}]
    resources: {limits: {cpu: 500m, memory: 64Mi}}
    startupProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, failureThreshold: 60}
    readinessProbe: {httpGet: {path: /index.html, port: 8080}, periodSeconds: 1, timeoutSeconds: 10}
    livenessProbe: {exec: {command: [test, "!", -e, /www/ill]}, periodSeconds: 1, failureThreshold: 1, timeoutSeconds: 20}
    volumeMounts: [{name: www, mountPath: /www}]
  volumes: [{name: www, emptyDir: {}}]
`

func TestKubelet(t *testing.T) {
	m := start(t)
	m.pod(t, "web", web)
	p := m.until(t, "web", "ready", ready)
	id := func() string { return m.sh(t, "ctr-cri ps -q --name '^main$'") }
	host := "https://" + m.proxy(t)
	config := &rest.Config{Host: host, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}

	t.Run("logs", func(t *testing.T) {
		if data, err := m.get("/containerLogs/default/web-node/main"); err != nil || string(data) != "begin\n" {
			t.Errorf("%q, %v", data, err)
		}
	})
	t.Run("exec", func(t *testing.T) {
		u, _ := url.Parse(host + "/exec/default/web-node/main?command=sh&command=-c&command=" + url.QueryEscape("cat; echo bad >&2; exit 7") + "&input=1&output=1&error=1")
		e, err := remotecommand.NewSPDYExecutor(config, "POST", u)
		if err != nil {
			t.Fatal(err)
		}
		var out, errs bytes.Buffer
		err = e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: strings.NewReader("in\n"), Stdout: &out, Stderr: &errs})
		if err == nil || !strings.Contains(err.Error(), "exit code 7") || out.String() != "in\n" || errs.String() != "bad\n" {
			t.Errorf("%q, %q, %v", out.String(), errs.String(), err)
		}
	})
	t.Run("port-forward", func(t *testing.T) { m.forward(t, host, config) })
	t.Run("hostPort", func(t *testing.T) {
		if out := m.sh(t, "curl -sS http://10.200.0.1:9080/"); out != "hello" {
			t.Errorf("%q", out)
		}
	})
	t.Run("ctr-cri", func(t *testing.T) {
		m.sh(t, "systemctl stop ctrd.socket ctrd-cri.socket ctrd")
		if out := m.sh(t, "ctr-cri exec "+id()+" cat /www/index.html; ctr-cri pods --name web -o json | grep -c SANDBOX_READY; ctr-cri inspect "+id()+" >/dev/null"); out != "hello\n1" {
			t.Errorf("%q", out)
		}
		m.sh(t, "systemctl start ctrd.socket ctrd-cri.socket")
		m.until(t, "web", "ready", ready)
	})
	t.Run("killed container", func(t *testing.T) {
		m.sh(t, "kill -KILL $(ctr-cri inspect -o go-template --template '{{.info.pid}}' "+id()+")")
		m.until(t, "web", "restarted", restarted(1))
	})
	t.Run("liveness", func(t *testing.T) {
		m.sh(t, "ctr-cri exec "+id()+" touch /www/ill")
		m.until(t, "web", "restarted", restarted(2))
	})
	t.Run("out of memory", func(t *testing.T) {
		m.pod(t, "oom", "  restartPolicy: Never\n  containers:\n  - {name: main, image: IMG, command: [sh, -c, 'x=a; while :; do x=$x$x; done'], resources: {limits: {memory: 16Mi}}}\n")
		p := m.until(t, "oom", "ended", func(p *corev1.Pod) bool {
			return p != nil && len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Terminated != nil
		})
		if s := p.Status.ContainerStatuses[0].State.Terminated; s.Reason != "OOMKilled" || s.ExitCode != 137 {
			t.Error(s)
		}
		m.remove(t, "oom")
	})
	t.Run("kill -9 of ctrd", func(t *testing.T) { m.killed(t) })
	t.Run("reboot", func(t *testing.T) {
		before := m.until(t, "web", "ready", ready).Status.ContainerStatuses[0].RestartCount
		m.sh(t, reboot)
		again := m.until(t, "web", "ready in another sandbox", func(n *corev1.Pod) bool { return ready(n) && n.Status.PodIP != "" && n.UID == p.UID })
		if n := again.Status.ContainerStatuses[0].RestartCount; n <= before {
			t.Errorf("restarted %d times, and %d before the reboot", n, before)
		}
	})
	m.remove(t, "web")
	if left := m.sh(t, "ctr-cri pods -q; ctr-cri ps -aq; ls /run/pods-ipam/pods | grep '^10' || :; ip -o link show type veth | grep -v ' node[01]' || :"); left != "" {
		t.Errorf("left behind: %s", left)
	}
}

// reboot is what a machine does to what runs on it: it kills all processes and loses what is in memory.
const reboot = `
	systemctl stop kubelet ctrd.socket ctrd-cri.socket
	systemctl kill -s KILL ctrd 2>/dev/null || :
	for p in /proc/[0-9]*; do
		case $(readlink $p/exe 2>/dev/null) in /usr/local/bin/ctr-shim*|/bin/busybox|/memfd:*) kill -KILL ${p#/proc/} 2>/dev/null || : ;; esac
	done
	sleep 1
	grep -o "$CTRD_STATE/[^ ]*" /proc/mounts | sort -r | while read -r at; do umount -l "$at" || :; done
	rm -rf $CTRD_STATE /run/pods-ipam
	cat /proc/sys/kernel/random/uuid >/run/scratch/boot_id
	mount --bind /run/scratch/boot_id /proc/sys/kernel/random/boot_id
	ip link del pods0
	systemctl start ctrd.socket ctrd-cri.socket
	systemd-run -q --unit=kubelet2 -p Restart=on-failure $KUBELET --config /etc/kubernetes/kubelet.yaml --node-ip 10.200.0.1 --hostname-override node --v 2
`

// remove takes a manifest away and waits until nothing of the pod is left.
func (m *machine) remove(t *testing.T, name string) {
	t.Helper()
	m.sh(t, "rm /etc/kubernetes/manifests/"+name+".yaml")
	m.until(t, name, "gone", func(p *corev1.Pod) bool { return p == nil })
	m.sh(t, "for _ in $(seq 600); do [ -n \"$(ctr-cri pods -q --name '^"+name+"-node$')\" ] || exit 0; sleep 0.2; done; ctr-cri pods; exit 1")
}

// forward reaches a port of the pod through the kubelet.
func (m *machine) forward(t *testing.T, host string, config *rest.Config) {
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		t.Fatal(err)
	}
	u, _ := url.Parse(host + "/portForward/default/web-node")
	stop, up := make(chan struct{}), make(chan struct{})
	f, err := portforward.New(spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", u), []string{"0:8080"}, stop, up, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- f.ForwardPorts() }()
	select {
	case <-up:
	case err := <-ended:
		t.Fatal(err)
	}
	ports, err := f.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/index.html", ports[0].Local))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if data, err := io.ReadAll(answer.Body); err != nil || string(data) != "hello\n" {
		t.Errorf("%q, %v", data, err)
	}
	close(stop)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// killed runs a pod, and ends it, while ctrd is killed again and again.
func (m *machine) killed(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	kills := make(chan int, 1)
	go func() {
		n := 0
		for ctx.Err() == nil {
			if _, err := m.try(`p=$(systemctl show -P MainPID ctrd); [ $p != 0 ] && kill -KILL $p`); err == nil {
				n++
			}
			time.Sleep(700 * time.Millisecond)
		}
		kills <- n
	}()
	m.pod(t, "tough", "  terminationGracePeriodSeconds: 1\n  containers:\n  - {name: main, image: IMG, command: [sleep, '1000'], readinessProbe: {exec: {command: ['true']}, periodSeconds: 1, timeoutSeconds: 20}}\n")
	m.until(t, "tough", "ready", ready)
	cancel()
	if n := <-kills; n == 0 {
		t.Error("ctrd was never killed")
	} else {
		t.Logf("ctrd was killed %d times", n)
	}
	m.remove(t, "tough")
	m.sh(t, "ctrd fsck")
}
