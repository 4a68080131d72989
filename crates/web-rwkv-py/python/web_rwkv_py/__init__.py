"""RWKV language models from GGUF, safetensors and PyTorch files.

L layers, C channels, V tokens in the vocabulary, N the size of a head, T tokens.
"""

from ._native import (
    DeviceInfo,
    Extraction,
    Field,
    Generation,
    Model,
    ModelInfo,
    ModelVersion,
    PyRnnOption,
    State,
    StateDevice,
    Timings,
    Tokenizer,
    __version__,
    devices,
)

__all__ = [
    "DeviceError",
    "DeviceInfo",
    "Extraction",
    "Field",
    "Generation",
    "InvalidModelError",
    "Model",
    "ModelFileError",
    "ModelInfo",
    "ModelVersion",
    "PyRnnOption",
    "RequestError",
    "RwkvError",
    "State",
    "StateDevice",
    "Timings",
    "Tokenizer",
    "__version__",
    "devices",
]


class RwkvError(Exception):
    """What the exceptions of this module derive from, beside their built-in families.

    An argument of the wrong type is a plain TypeError.
    """


class ModelFileError(RwkvError, OSError):
    """A file cannot be read or written; `errno` and `filename` tell more."""


class InvalidModelError(RwkvError, ValueError):
    """A file breaks its format, or holds a model that is not supported."""


class RequestError(RwkvError, ValueError):
    """A request that does not make sense: a token outside the vocabulary, a state of another model."""


class DeviceError(RwkvError, RuntimeError):
    """A GPU that is not there, has no memory left, was lost, or computes wrongly."""
