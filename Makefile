# make demo: mails in, fields out, with timings.   make test: everything is checked.
PYTHON ?= python3
VENV := .venv
WITNESS := $(CURDIR)/target/witness
SHARED := $(CURDIR)/../shared
DEMO := models/rwkv7-mail/demo

.PHONY: demo test lint bench witness

demo:
	cargo build --release --locked -p web-rwkv-cli
	@for schema in $(DEMO)/*.toml; do \
	  target/release/web-rwkv extract --table --schema $$schema $${schema%.toml}.eml || exit 1; done

test: witness
	WITNESS_DIR=$(WITNESS) cargo test --workspace --locked

# Answers of independent implementations, which the tests compare with.
witness: $(WITNESS)/done

$(WITNESS)/done: Makefile tools/witness_*.py tools/reference_forward.py $(VENV)/done
	mkdir -p $(WITNESS)
	$(VENV)/bin/python tools/witness_blocks.py $(WITNESS)/blocks
	$(VENV)/bin/python tools/witness_models.py $(WITNESS)/models $(SHARED)
	$(VENV)/bin/python tools/witness_tokenizer.py $(WITNESS)
	touch $@

$(VENV)/done: tools/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q --disable-pip-version-check -r tools/requirements.txt
	$(VENV)/bin/pip install -q --disable-pip-version-check --no-deps rwkv==0.8.32
	touch $@

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

bench:
	cargo build --release --locked -p web-rwkv-cli
	target/release/web-rwkv bench
