"""What to look for: a schema maps the name of each field to its description."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import AgentError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Schema = dict[str, str]

# A whole mail is asked about each field; more of them than this is a mistaken file.
_MOST_FIELDS = 256


def load_schema(source: str) -> Schema:
    """Reads `file.toml`, `file.json`, or a pydantic model named as `module:Class` or `file.py:Class`.

    Files hold `name = "description"` for each field; of a pydantic model its names and descriptions are taken, not its
    types: every value is a text, quoted from the mail. Raises `AgentError`.
    """
    module, colon, name = source.rpartition(":")
    if colon and name.isidentifier():
        return schema_of(_model_class(module, name, source), source)
    path = Path(source)
    if path.suffix not in (".toml", ".json"):
        raise AgentError(f"{source}: expected a schema as .toml, .json or module:Class")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise AgentError(f"{source}: expected a schema, found no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise AgentError(f"{source}: {error}") from error
    try:
        fields = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AgentError(f"{source}: {error}") from error
    return schema_of(fields, source)


def schema_of(fields: Any, source: str = "schema") -> Schema:
    """Checks a mapping of names to descriptions, or takes one from a pydantic model class.

    A pydantic field without a description is described by its name in words.
    """
    if isinstance(fields, type) and isinstance(model_fields := getattr(fields, "model_fields", None), Mapping):
        fields = {name: info.description or name.replace("_", " ") for name, info in model_fields.items()}
    if not isinstance(fields, Mapping):
        raise AgentError(f"{source}: expected a table of names and descriptions, found {type(fields).__name__}")
    if not 1 <= len(fields) <= _MOST_FIELDS:
        raise AgentError(f"{source}: expected 1 to {_MOST_FIELDS} fields, found {len(fields)}")
    for name, description in fields.items():
        if not isinstance(description, str) or not description.strip():
            found = "nothing" if description == "" else repr(description)
            raise AgentError(f"{source}: field `{name}`: expected a description in words, found {found}")
    return dict(fields)


def _model_class(module: str, name: str, source: str) -> type:
    try:
        if module.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(module).stem, module)
            assert spec is not None, "a .py file has a loader"
            assert spec.loader is not None, "a .py file has a loader"
            loaded = importlib.util.module_from_spec(spec)
            # pydantic looks annotations up in the module.
            sys.modules[spec.name] = loaded
            spec.loader.exec_module(loaded)
        else:
            # An installed command does not look into the working directory by itself, as `python` does.
            if os.getcwd() not in sys.path:
                sys.path.insert(0, os.getcwd())
            loaded = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        # Importing runs a foreign module, which may raise anything, and end the program.
        raise AgentError(f"{source}: {type(error).__name__}: {error}") from error
    found = getattr(loaded, name, None)
    if not isinstance(found, type) or not hasattr(found, "model_fields"):
        raise AgentError(f"{source}: expected a pydantic model `{name}` in {module}, found {type(found).__name__}")
    return found
