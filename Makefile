# make demo: mails in, fields out, with timings.   make test: everything is checked.
PYTHON ?= python3
VENV := .venv
WITNESS := $(CURDIR)/target/witness
WHEEL := target/wheel
SHARED := $(CURDIR)/../shared
DEMO := models/rwkv7-mail/demo

PIP := $(VENV)/bin/pip install -q --disable-pip-version-check

# What cargo builds of the command and the module; all of it if empty.
FEATURES ?=

.PHONY: demo command test neon training-test lint bench accuracy witness python

# Without GPUs and the client of the Hugging Face hub, of which there is most to compile: it is ready in minutes.
demo: LIGHT := FEATURES=--no-default-features
demo:
	@$(MAKE) --no-print-directory -j2 command $(VENV)/done $(LIGHT)
	@$(MAKE) --no-print-directory python $(LIGHT)
	@for schema in $(DEMO)/*.toml; do \
	  target/release/web-rwkv extract --table --schema $$schema $${schema%.toml}.eml || exit 1; done
	rm -f target/demo.jsonl
	$(VENV)/bin/rwkv-email-agent extract $(DEMO) --schema $(DEMO)/shipping.toml --out target/demo.jsonl
	$(VENV)/bin/rwkv-email-agent search $(DEMO) "when is the parcel delivered" --top 3
	$(VENV)/bin/rwkv-email-agent dashboard --headless --repeats 3

command:
	cargo build --release --locked -p web-rwkv-cli $(FEATURES)

test: witness python
	WITNESS_DIR=$(WITNESS) cargo test --workspace --locked
	$(VENV)/bin/python -m mypy.stubtest web_rwkv_py
	WITNESS_DIR=$(WITNESS) $(VENV)/bin/pytest -q -rs crates/web-rwkv-py
	$(VENV)/bin/pytest -q -rs crates/web-rwkv-cli
	cd email-agent && $(CURDIR)/$(VENV)/bin/pytest -q -rs
	cd training && $(CURDIR)/$(VENV)/bin/pytest -q -rs

# The CPU's kernels for aarch64, emulated. Needs Debian's gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user-static,
# and `rustup target add aarch64-unknown-linux-gnu`.
neon:
	CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
	CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64-static -L /usr/aarch64-linux-gnu" \
	cargo test --locked --target aarch64-unknown-linux-gnu -p web-rwkv-gguf --no-default-features --lib cpu::

# All tests of training/; those that train need PyTorch, several GB, which has an environment of its own.
training-test: python
	$(PYTHON) -m venv training/.venv
	training/.venv/bin/pip install -q --disable-pip-version-check -r training/requirements.txt
	training/.venv/bin/pip install -q --disable-pip-version-check --no-deps --force-reinstall $(WHEEL)/*.whl
	cd training && .venv/bin/pytest -q -rs

# The module web_rwkv_py, as a wheel for every Python from 3.9 on, and the email agent.
python: $(VENV)/done
	rm -rf $(WHEEL)
	$(VENV)/bin/maturin build -q --release --locked $(FEATURES) -m crates/web-rwkv-py/Cargo.toml -o $(WHEEL)
	$(PIP) --no-deps --force-reinstall $(WHEEL)/*.whl
	$(PIP) --no-deps --no-build-isolation -e email-agent

# Answers of independent implementations, which the tests compare with.
witness: $(WITNESS)/done

$(WITNESS)/done: Makefile tools/witness_*.py tools/reference_forward.py $(VENV)/done
	mkdir -p $(WITNESS)
	$(VENV)/bin/python tools/witness_blocks.py $(WITNESS)/blocks
	$(VENV)/bin/python tools/witness_models.py $(WITNESS)/models $(SHARED)
	$(VENV)/bin/python tools/witness_versions.py $(WITNESS)/versions $(SHARED)
	$(VENV)/bin/python tools/witness_tokenizer.py $(WITNESS)
	touch $@

$(VENV)/done: tools/requirements.txt email-agent/requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -r tools/requirements.txt -r email-agent/requirements-dev.txt
	$(PIP) --no-deps rwkv==0.8.32
	touch $@

# mypy reads the module's stub from where it is installed.
lint: python
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	$(VENV)/bin/ruff check crates/web-rwkv-py
	$(VENV)/bin/ruff format --check crates/web-rwkv-py
	$(VENV)/bin/ruff check --config crates/web-rwkv-py/pyproject.toml crates/web-rwkv-cli
	$(VENV)/bin/ruff format --check --config crates/web-rwkv-py/pyproject.toml crates/web-rwkv-cli
	cd crates/web-rwkv-py && $(CURDIR)/$(VENV)/bin/mypy
	cd email-agent && $(CURDIR)/$(VENV)/bin/ruff check . && $(CURDIR)/$(VENV)/bin/ruff format --check .
	cd email-agent && $(CURDIR)/$(VENV)/bin/mypy
	cd training && $(CURDIR)/$(VENV)/bin/ruff check . && $(CURDIR)/$(VENV)/bin/ruff format --check .

# Exact match and token F1 of the embedded model: hand-written mails, and generated ones of kinds that it was trained
# on and of new kinds, on which the bias on "none" was chosen.
accuracy: command
	@for set in $(DEMO)-emails.jsonl models/rwkv7-mail/eval/*.jsonl; do for mode in "" --free; do \
	  echo "$$set $$mode"; $(PYTHON) tools/evaluate.py $$set -- $$mode || exit 1; done; done

# LLAMA_PYTHON=... says which Python has llama-cpp-python, built for this machine; without it there is no comparison.
BENCH ?= $(DEMO:demo=rwkv7-mail-q4_k_m.gguf)

bench: command
	target/release/web-rwkv bench
	$(PYTHON) tools/bench_llama.py $(BENCH)
