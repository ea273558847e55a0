# SPDX-License-Identifier: Apache-2.0

# sudo leaves /usr/local out of PATH on some systems.
export PATH := $(PATH):/usr/local/go/bin
GO ?= go
PREFIX ?= /usr/local
UNITDIR ?= $(PREFIX)/lib/systemd/system
SYSUSERSDIR ?= $(PREFIX)/lib/sysusers.d
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

commands := $(patsubst cmd/%/main.go,%,$(wildcard cmd/*/main.go))
static := $(filter-out ctr-shim,$(commands))
units := $(notdir $(wildcard systemd/*.socket systemd/*.service systemd/*.timer))
LDFLAGS := -s -w -X ctrd.dev/ctrd/lib/cli.Version=$(VERSION)
# The crash tests build the same with their tag elsewhere.
BIN ?= bin
TAGS ?=

# OCI engines for tests, searched before PATH.
export CTRD_ENGINES ?= $(CURDIR)/build/engines

export CGO_ENABLED
export GOFLAGS += -buildvcs=false

.PHONY: all build deps deps-test install uninstall test unit e2e interop test-kubelet test-verity vet lint docs check-docs demo images fuzz crash bench size clean

all: deps build

# nri_no_wasm leaves out NRI's plugins in wasm. grpcnotrace leaves out golang.org/x/net/trace, whose pages nobody serves: its
# html/template finds methods by name, and the linker would keep all of them.
build:
	@mkdir -p $(BIN)
ifneq ($(static),)
	CGO_ENABLED=0 $(GO) build -trimpath -tags "nri_no_wasm grpcnotrace $(TAGS)" -ldflags "$(LDFLAGS)" -o $(BIN)/ $(static:%=./cmd/%)
endif
ifneq ($(filter ctr-shim,$(commands)),)
	CGO_ENABLED=1 $(GO) build -trimpath -tags "seccomp netgo osusergo $(TAGS)" -ldflags '$(LDFLAGS) -X main.version=$(VERSION) -linkmode external -extldflags "-static"' -o $(BIN)/ ./cmd/ctr-shim
endif

deps:
	@scripts/deps build

deps-test:
	@scripts/deps test
	@scripts/getcrun $(CTRD_ENGINES) || echo "deps: no recent crun: its tests are skipped" >&2
	@scripts/getdeb $(CTRD_ENGINES) criu usr/sbin/criu || echo "deps: no recent criu: its tests are skipped" >&2

install: build
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)$(PREFIX)/share/zsh/site-functions
	install -m 755 $(commands:%=$(BIN)/%) $(DESTDIR)$(PREFIX)/bin
	install -m 644 man/*.1 $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 644 completions/bash/* $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	install -m 644 completions/zsh/_* $(DESTDIR)$(PREFIX)/share/zsh/site-functions
	install -d $(DESTDIR)$(UNITDIR) $(DESTDIR)$(SYSUSERSDIR)
	install -m 644 systemd/ctrd.sysusers $(DESTDIR)$(SYSUSERSDIR)/ctrd.conf
	install -m 644 $(units:%=systemd/%) $(DESTDIR)$(UNITDIR)
	sed -i 's|^ExecStart=/usr/local/|ExecStart=$(PREFIX)/|' $(patsubst %,$(DESTDIR)$(UNITDIR)/%,$(filter %.service,$(units)))

uninstall:
	rm -f $(commands:%=$(DESTDIR)$(PREFIX)/bin/%) $(addprefix $(DESTDIR)$(PREFIX)/share/man/man1/,$(notdir $(wildcard man/*.1)))
	rm -f $(static:%=$(DESTDIR)$(PREFIX)/share/bash-completion/completions/%) $(static:%=$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_%)
	rm -f $(units:%=$(DESTDIR)$(UNITDIR)/%) $(DESTDIR)$(SYSUSERSDIR)/ctrd.conf

# Everything that must hold. As root; installs what it needs.
test: deps-test build vet lint check-docs unit e2e interop crash

# Some tests build the programs that they run, of which the cache of test results knows nothing.
unit:
	CGO_ENABLED=1 $(GO) test -count=1 -tags seccomp ./lib/... ./cmd/... ./scripts/...

# One script alone: make e2e RUN=run/rm
e2e: build
	CGO_ENABLED=0 $(GO) test -count=1 -timeout 20m $(if $(RUN),./test/e2e -run '^Test[^/]*/^$(subst /,$$/^,$(RUN))$$' -v,./test/world ./test/library ./test/e2e ./test/systemd ./test/cri)

# With containerd, its shim and runc, which it builds the first time. One test alone: make interop RUN=TestPod
interop: build
	cd test/interop && CGO_ENABLED=1 GOWORK=off $(GO) vet . && CGO_ENABLED=1 GOWORK=off $(GO) test -count=1 -trimpath -timeout 20m $(if $(RUN),-run '^$(RUN)$$' -v) .

# A real kubelet on the activated CRI socket, in a systemd of its own. It builds the kubelet, some ten minutes the first time; KUBELET names
# one that is there.
KUBELET ?= $(CURDIR)/build/kubelet/kubelet
test-kubelet: build
	@test -x $(KUBELET) || (cd test/kubelet && CGO_ENABLED=0 GOWORK=off $(GO) build -ldflags '-s -w -X k8s.io/component-base/version.gitVersion=v1.37.2' -o $(KUBELET) k8s.io/kubernetes/cmd/kubelet)
	$(GO) build -o build/mkimages ./scripts/mkimages
	cd test/kubelet && GOWORK=off $(GO) vet . && KUBELET=$(KUBELET) GOWORK=off $(GO) test -count=1 -timeout 40m -v $(if $(RUN),-run '$(RUN)') .

# fs-verity under layers of erofs, in a virtual machine, as few kernels that run tests have it. Skipped without qemu.
test-verity: build
	test/verity/run $(BIN) build/verity

vet:
	@test -z "$$(gofmt -l cmd lib scripts test)" || { gofmt -d cmd lib scripts test; exit 1; }
	CGO_ENABLED=1 $(GO) vet -tags seccomp ./...

# golangci-lint with .golangci.yml where it is installed, staticcheck elsewhere.
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
lint:
	@if command -v golangci-lint >/dev/null; then golangci-lint run; else CGO_ENABLED=1 $(GO) run $(STATICCHECK) -tags seccomp ./...; fi

# Man pages and completions are made from the commands, and committed.
docs: build
	$(GO) run ./scripts/gendocs $(BIN) .

check-docs: build
	@rm -rf build/docs && mkdir -p build/docs
	@$(GO) run ./scripts/gendocs $(BIN) build/docs
	@for d in man completions; do diff -r $$d build/docs/$$d || { echo "$$d is stale: make docs" >&2; exit 1; }; done
	@if command -v mandoc >/dev/null; then mandoc -T lint -W warning man/*.1; fi

# IMAGE=docker.io/library/alpine shows the same with an image of a real registry.
demo:
	@scripts/deps demo
	@$(MAKE) --no-print-directory build >/dev/null
	@scripts/demo

fuzz:
	scripts/fuzz $(or $(FUZZTIME),20s)

# Kills the commands and their supervisors at each named crash point and at random moments.
crash: build
	CGO_ENABLED=0 $(GO) test -count=1 -timeout 60m ./test/crash

bench: build
	scripts/bench/run

size: build
	@scripts/size $(commands:%=$(BIN)/%)

clean:
	rm -rf bin build
