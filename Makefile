# `make run` and `make test` do everything on a fresh Debian machine with Go, git and make. What else
# they need they install, and say so.

GO      ?= go
BIN     := bin
VERSION := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
# The build is static and the same wherever it is made; git may not trust the folder's owner.
BUILD   := CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)'
STATICCHECK := $(GO) tool -modfile=tools/go.mod staticcheck
HOST_PLATFORM := $(shell $(GO) env GOHOSTOS)/$(shell $(GO) env GOHOSTARCH)
PLATFORMS   := linux/amd64 linux/arm64 darwin/arm64 windows/amd64

.DEFAULT_GOAL := help
.PHONY: help build run image test check bench fuzz fuzz-corpus soak clean vm-tools race-tools test-tools bench-tools

help: ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 10

build: ## both programs, into bin/
	@mkdir -p $(BIN)
	$(BUILD) -o $(BIN)/ ./cmd/metaservice ./cmd/guest-tools

run: build ## a first task, in a guest on the embedded machine
	@mkdir -p $(BIN)/out
	$(BIN)/metaservice run \
		--env WHO=world --artifact greeting.txt=$(BIN)/out/greeting.txt --json $(BIN)/out/result.json \
		-- sh -c 'echo "hello, $$WHO, from $$(uname -s)"; echo "made in the guest" >greeting.txt'
	@echo; echo "The artifact, $(BIN)/out/greeting.txt:"; cat $(BIN)/out/greeting.txt

# Images and what they are made of are kept from checkout to checkout; 'image' there is the latest.
CACHE          := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/metaservice
KERNEL_PACKAGE := linux-image-cloud-amd64
APT_DOWNLOAD   := apt-get download -qq -o Acquire::Retries=3 -o APT::Sandbox::User=root

image: build vm-tools $(CACHE)/kit/packages ## the image that virtual machines boot, once for each build
	@set -e; cd $(CACHE); \
		key=$$(cat $(CURDIR)/$(BIN)/guest-tools $(CURDIR)/$(BIN)/metaservice kit/packages | sha256sum | cut -c1-16); \
		if [ -e images/$$key/machine.json ]; then \
			echo "The image is there already:"; \
		else \
			echo "Making an image of $$(tr '\n' ' ' <kit/packages)and guest-tools:"; \
			PATH=$(CACHE)/kit/bin:$$PATH $(CURDIR)/$(BIN)/metaservice image build \
				--kernel kit/boot/vmlinuz-* --modules kit/lib/modules/* --rootfs busybox \
				--guest-tools $(CURDIR)/$(BIN)/guest-tools --output images/$$key >/dev/null; \
		fi; \
		touch images/$$key; \
		ln -sfn images/$$key image.new; mv -fT image.new image; \
		ls -dt images/* | tail -n +4 | xargs -r rm -rf; \
		echo $(CACHE)/image

# Debian's cloud kernel, which the package of that name only depends on, and its static busybox: fetched
# and unpacked, but not installed.
$(CACHE)/kit/packages:
	@set -e; mkdir -p $(CACHE); kit=$$(mktemp -d $(CACHE)/.kit.XXXXXX); trap 'rm -rf '$$kit EXIT; \
		kernel() { apt-cache depends $(KERNEL_PACKAGE) 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-.*\)/\1/p' | head -n 1; }; \
		fetch() { [ -n "$$(kernel)" ] && (cd $$kit && $(APT_DOWNLOAD) $$(kernel) busybox-static); }; \
		echo "Fetching $(KERNEL_PACKAGE) and busybox-static"; \
		fetch 2>/dev/null || { apt-get update -qq -o Acquire::Retries=3; fetch; } || { \
			echo "apt has no $(KERNEL_PACKAGE) or busybox-static; 'metaservice image build' takes any kernel" >&2; exit 1; }; \
		for package in $$kit/*.deb; do dpkg-deb -x $$package $$kit; basename $$package .deb; done >$$kit/packages; \
		rm $$kit/*.deb; chmod 755 $$kit; mkdir -p $(CACHE)/images; rm -rf $(CACHE)/kit; mv -T $$kit $(CACHE)/kit

vm-tools: ## QEMU, and what else images and their tests need, where it is missing
	@PATH=$$PATH:/usr/sbin:/sbin; missing=; \
		need() { command -v $$1 >/dev/null || missing="$$missing $$2"; }; \
		need qemu-system-x86_64 qemu-system-x86; need qemu-img qemu-utils; need mke2fs e2fsprogs; \
		need busybox busybox-static; need systemd-analyze systemd; \
		test -z "$$missing" || { echo "Virtual machines need$$missing: installing"; \
			apt-get update -qq -o Acquire::Retries=3 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -o Acquire::Retries=3 --no-install-recommends $$missing; }

test: race-tools test-tools image ## every test, in virtual machines too, with the race detector
	$(GO) test -race -buildvcs=false -timeout 20m ./...
	CGO_ENABLED=0 $(GO) test -trimpath -buildvcs=false -timeout 10m ./adapters/wsshell # whole sizes, in every version: too slow for the race detector

# The race detector is C; a fresh machine has no compiler.
race-tools:
	@command -v gcc >/dev/null || { \
		echo "The race detector needs a C compiler: installing gcc and libc6-dev"; \
		apt-get update -qq -o Acquire::Retries=3 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -o Acquire::Retries=3 gcc libc6-dev; }

# Shells are tested in a real terminal.
test-tools:
	@command -v tmux >/dev/null || { \
		echo "The tests of shells need a terminal: installing tmux"; \
		apt-get update -qq -o Acquire::Retries=3 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -o Acquire::Retries=3 --no-install-recommends tmux; }

# What needs no C is built in one way everywhere, so that it is compiled once.
check fuzz: export CGO_ENABLED = 0
check fuzz: export GOFLAGS := $(GOFLAGS) -trimpath

check: ## format, vet, staticcheck, tidy, and builds for the other platforms
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); \
		test -z "$$unformatted" || { echo "not formatted, run gofmt -w on:"; echo "$$unformatted"; exit 1; }
	$(GO) vet ./...
	$(STATICCHECK) ./...
	$(GO) mod tidy -diff
	$(GO) mod verify
	cd tests/bench/report && $(GO) vet . && $(GO) mod tidy -diff && $(GO) mod verify # what draws is a module of its own
	@set -e; for platform in $(PLATFORMS); do \
		export GOOS=$${platform%/*} GOARCH=$${platform#*/}; \
		echo "$$platform: build and vet"; \
		$(GO) build -buildvcs=false -o /dev/null ./cmd/metaservice; \
		$(GO) build -buildvcs=false -o /dev/null ./cmd/guest-tools; \
		test $$platform = $(HOST_PLATFORM) || $(GO) vet ./...; \
	done
	@GOOS=linux GOARCH=amd64 $(BUILD) -o $(BIN)/check/guest-tools ./cmd/guest-tools; \
		size=$$(stat -c %s $(BIN)/check/guest-tools); echo "guest-tools for linux/amd64: $$size bytes, at most 8388608"; \
		test $$size -le 8388608

# ssh is what a shell is measured beside. Nothing is started, and the benchmark's own server ends with it.
bench-tools:
	@test -x /usr/sbin/sshd && command -v ssh >/dev/null || { \
		echo "The benchmarks measure ssh, too: installing openssh-server and openssh-client, without starting a server"; \
		apt-get update -qq -o Acquire::Retries=3 && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -o Acquire::Retries=3 --no-install-recommends openssh-server openssh-client; }

# With FLAGS, such as -bench Idle, it isn't the whole, and the document stays as it is.
BENCH := $(GO) test -buildvcs=false -run '^$$' -bench . -benchtime 1x -timeout 30m -p 1 ./tests/bench ./tests/vm $(FLAGS)
FIGURES := $(CURDIR)/$(BIN)/figures
bench: bench-tools image ## figures beside their limits, measured in turns in one run, into docs/performance.md
ifeq ($(strip $(FLAGS)),)
	@rm -rf $(FIGURES); mkdir -p $(FIGURES)
	METASERVICE_FIGURES=$(FIGURES) $(BENCH); status=$$?; \
		$(GO) run -C tests/bench/report . -figures $(FIGURES) -docs $(CURDIR)/docs && exit $$status
else
	$(BENCH)
endif

# A count of inputs, for Go's fuzzer now and then takes the end of a duration for a failure of the target
# ("context deadline exceeded", with no input to blame).
FUZZTIME ?= 100000x
CORPUS = tests/testdata/fuzz-corpus.tar.gz
fuzz: ## every parser, FUZZTIME each: a count of inputs, or a duration
	@mkdir -p $$($(GO) env GOCACHE)/fuzz && tar -xzf $(CORPUS) -C $$($(GO) env GOCACHE)/fuzz
	@set -e; for package in $$(grep -rl --include=*_test.go '^func Fuzz' . | xargs -n1 dirname | sort -u); do \
		for target in $$(grep -ho '^func Fuzz[A-Za-z0-9_]*' $$package/*_test.go | sed 's/func //'); do \
			echo "$$package $$target"; \
			$(GO) test -buildvcs=false -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1000x $$package; \
		done; done

fuzz-corpus: ## keep what fuzzing has found so far: inputs that go where no other did
	tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=644 --no-recursion -C $$($(GO) env GOCACHE)/fuzz \
		-czf $(CORPUS) $$(cd $$($(GO) env GOCACHE)/fuzz && find github.com/hexworker/metaservice -type f)

# The packages whose tests have counts to raise.
LONG = $(shell grep -rl --include=*_test.go 'contract\.\(Long\|Count\|Processes\|Machine\)' . | xargs -n1 dirname | sort -u)

# How long each machine's guests are run, killed and cut off.
SOAK ?= 5m
soak: race-tools test-tools image ## many guests under faults for SOAK, whole counts, and ten million inputs for each parser
	$(GO) test -buildvcs=false -count 1 -timeout 2h -v ./tests/soak -args -duration $(SOAK)
	$(GO) test -race -buildvcs=false -count 1 -timeout 2h $(filter-out ./tests/soak,$(LONG)) -args -long
	$(MAKE) fuzz FUZZTIME=10000000x

clean: ## what was built
	rm -rf $(BIN)
