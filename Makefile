# `make` lists what there is.

TOOLS := .tools
BUF := $(TOOLS)/buf/node_modules/.bin/buf
DENY := $(TOOLS)/cargo-deny/bin/cargo-deny

.PHONY: help run demo figures test lint image tools clients
help: ## List the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

run: ## Serve on 127.0.0.1:7171, data in ./columba-data
	cargo run --release --locked -- serve

demo: ## Send a year of flights through a server that is killed twice; compare
	./scripts/demo.sh

figures: ## Measure, and write docs/benchmarks.md
	cargo bench --locked --bench figures > target/benchmarks.md
	mv target/benchmarks.md docs/benchmarks.md

test: ## Run every test; fetches the tools they need into .tools
	./scripts/tools.sh grpcurl-1.9.4 grpcurl-1.8.6 buf libfaketime helm kubernetes-validate hadolint web
	./scripts/clients.sh
	cargo test --locked
	@if [ -s $(TOOLS)/skipped ]; then echo "Tests that need these tools were skipped:"; cat $(TOOLS)/skipped; fi

lint: ## Check formatting, lints, docs, dependencies and protos
	./scripts/tools.sh buf cargo-deny
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked --document-private-items
	@if [ -x $(DENY) ]; then $(DENY) check bans licenses sources; fi
	@if [ -x $(BUF) ]; then $(BUF) lint; fi

image: ## Build the image's program, and run it in an empty root, as root; needs no container engine
	./scripts/static-binary.sh check

tools: ## Fetch every tool into .tools
	./scripts/tools.sh grpcurl-1.9.4 grpcurl-1.8.6 buf libfaketime helm kubernetes-validate hadolint web cargo-deny

clients: ## Build the example clients, in five languages
	./scripts/clients.sh
