"""RWKV language models from GGUF, safetensors and PyTorch files.

L layers, C channels, V tokens in the vocabulary, N the size of a head, T tokens.
The docstrings are those of the classes themselves: `help(web_rwkv_py.Model)`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from types import TracebackType
from typing import Any, ClassVar, Literal, SupportsIndex, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self, TypeAlias

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

__version__: str

_Path: TypeAlias = str | PathLike[str]
_Text: TypeAlias = str | bytes | bytearray
_Ids: TypeAlias = Iterable[SupportsIndex] | NDArray[np.integer[Any]]
_Tokens: TypeAlias = _Text | _Ids  # a text is read by the model's tokenizer
_Pool: TypeAlias = Literal["last", "mean", "none"]
_Progress: TypeAlias = Callable[[int, int], object]  # (tokens read, of how many)
_Floats: TypeAlias = NDArray[np.float32]

class RwkvError(Exception): ...
class ModelFileError(RwkvError, OSError): ...
class InvalidModelError(RwkvError, ValueError): ...
class RequestError(RwkvError, ValueError): ...
class DeviceError(RwkvError, RuntimeError): ...

@final
class PyRnnOption:
    Last: ClassVar[PyRnnOption]  # logits [V]
    Full: ClassVar[PyRnnOption]  # logits [T * V]
    EmbedLast: ClassVar[PyRnnOption]  # hidden vector [C]
    EmbedFull: ClassVar[PyRnnOption]  # hidden vectors [T * C]
    def __int__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, ...]: ...
    def __hash__(self) -> int: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...

@final
class StateDevice:
    Cpu: ClassVar[StateDevice]
    Gpu: ClassVar[StateDevice]
    def __int__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, ...]: ...
    def __hash__(self) -> int: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...

@final
class ModelVersion:
    V4: ClassVar[ModelVersion]
    V5: ClassVar[ModelVersion]
    V6: ClassVar[ModelVersion]
    V7: ClassVar[ModelVersion]
    def __int__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, ...]: ...
    def __hash__(self) -> int: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...

@final
class ModelInfo:
    def __new__(
        cls,
        version: ModelVersion,
        num_layer: int,
        num_emb: int,
        num_hidden: int,
        num_vocab: int,
        num_head: int,
        head_size: int,
    ) -> Self: ...
    @property
    def version(self) -> ModelVersion: ...
    @property
    def num_layer(self) -> int: ...  # L
    @property
    def num_emb(self) -> int: ...  # C
    @property
    def num_hidden(self) -> int: ...  # F
    @property
    def num_vocab(self) -> int: ...  # V
    @property
    def num_head(self) -> int: ...  # H
    @property
    def head_size(self) -> int: ...  # N
    def __reduce__(self) -> tuple[Any, ...]: ...
    def __hash__(self) -> int: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...

@final
class DeviceInfo:
    @property
    def device(self) -> str: ...  # "gpu:0", as Model takes it
    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> Literal["discrete", "integrated", "virtual", "software", "other"]: ...
    @property
    def backend(self) -> str: ...  # "vulkan", "metal" or "dx12"
    @property
    def driver(self) -> str: ...
    @property
    def tier(self) -> Literal["plain", "subgroup", "matrix"]: ...  # its best kernels
    @property
    def subgroup(self) -> tuple[int, int]: ...  # smallest and largest size
    @property
    def binding_limit(self) -> int: ...  # bytes that a kernel can see of a buffer
    def __hash__(self) -> int: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...

def devices() -> list[DeviceInfo]: ...

@final
class State:
    __hash__: ClassVar[None]  # type: ignore[assignment]
    def __new__(cls, data: bytes) -> Self: ...
    @staticmethod
    def load(path: _Path) -> State: ...
    def save(self, path: _Path) -> None: ...
    @property
    def shape(self) -> tuple[int, int, int]: ...  # (L, N + 2, C)
    def to_numpy(self) -> _Floats: ...  # [L * (N + 2) * C], a read-only view; .copy() can be written to
    def to_list(self) -> list[float]: ...
    def deep_clone(self) -> State: ...
    def device(self) -> StateDevice: ...
    def to(self, device: StateDevice) -> State: ...
    def __copy__(self) -> State: ...
    def __deepcopy__(self, memo: object) -> State: ...
    def __bytes__(self) -> bytes: ...
    def __reduce__(self) -> tuple[type[State], tuple[bytes]]: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...

@final
class Tokenizer:
    def __new__(cls, path: _Path) -> Self: ...
    def encode(self, text: _Text) -> list[int]: ...
    def decode(self, tokens: _Ids) -> bytes: ...

@final
class Timings:  # seconds
    def __new__(cls, tokenize: float, doc_state: float, field_analysis: float, values: float) -> Self: ...
    @property
    def tokenize(self) -> float: ...
    @property
    def doc_state(self) -> float: ...
    @property
    def field_analysis(self) -> float: ...
    @property
    def values(self) -> float: ...
    def __reduce__(self) -> tuple[Any, ...]: ...

@final
class Field:
    def __new__(
        cls,
        name: str,
        value: str | None,
        start: int | None,
        end: int | None,
        confidence: float,
        similarity: float,
    ) -> Self: ...
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> str | None: ...
    @property
    def start(self) -> int | None: ...  # in document.encode(), or in a document of bytes
    @property
    def end(self) -> int | None: ...
    @property
    def confidence(self) -> float: ...  # 0 to 1
    @property
    def similarity(self) -> float: ...  # -1 to 1
    def __reduce__(self) -> tuple[Any, ...]: ...

@final
class Extraction:
    def __new__(
        cls,
        fields: Sequence[Field],
        doc_tokens: int,
        generated_tokens: int,
        timings: Timings,
        state: State,
    ) -> Self: ...
    @property
    def fields(self) -> list[Field]: ...
    @property
    def values(self) -> dict[str, str | None]: ...
    @property
    def doc_tokens(self) -> int: ...
    @property
    def generated_tokens(self) -> int: ...
    @property
    def timings(self) -> Timings: ...
    @property
    def state(self) -> State: ...
    def __getitem__(self, name: str, /) -> Field: ...
    def __reduce__(self) -> tuple[Any, ...]: ...

@final
class Generation(Iterator[str]):
    def __iter__(self) -> Self: ...
    def __next__(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def tokens(self) -> list[int]: ...
    @property
    def stopped(self) -> bool: ...

@final
class Model:
    def __new__(
        cls,
        path: _Path,
        quant: int = 0,  # so many layers to Q8_0 at load, if they are floats
        quant_nf4: int = 0,  # so many to IQ4_NL
        quant_sf4: int = 0,  # as quant_nf4
        *,
        device: str = "auto",  # "cpu", "gpu", "gpu:N" as devices() counts them
        threads: int | None = None,
        vocab: _Path | None = None,
        lora: _Path | None = None,
        alpha: float | None = None,  # with lora
        fast: bool = False,  # activations of 8 bits, on a CPU
    ) -> Self: ...
    def info(self) -> ModelInfo: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def threads(self) -> int: ...
    @property
    def fast(self) -> bool: ...
    @property
    def device(self) -> str: ...  # "cpu", or "gpu: " and its name
    def init_state(self) -> State: ...
    def clear_state(self) -> None: ...
    def state_from_numpy(self, array: _Floats) -> State: ...  # [L, N + 2, C] or flat
    def load_state(self, state: State | _Floats | _Path) -> None: ...
    def back_state(self, device: StateDevice = ...) -> State: ...
    def back_state_numpy(self, device: StateDevice = ...) -> _Floats: ...  # [L * (N + 2) * C]
    def run(
        self,
        tokens: _Tokens,
        token_chunk_size: int = 128,
        option: PyRnnOption | None = None,
        *,
        progress: _Progress | None = None,
    ) -> list[float]: ...
    def run_full(
        self, tokens: _Tokens, token_chunk_size: int = 128, *, progress: _Progress | None = None
    ) -> list[float]: ...
    def embed(
        self,
        tokens: _Tokens,
        token_chunk_size: int = 128,
        last_only: bool = True,
        *,
        pool: _Pool | None = None,
        state: State | None = None,
        progress: _Progress | None = None,
    ) -> _Floats: ...
    def embed_batch(
        self,
        sequences: Iterable[_Tokens],
        token_chunk_size: int = 512,
        *,
        pool: _Pool = "last",
        state: State | None = None,
        progress: _Progress | None = None,
    ) -> list[_Floats]: ...
    def generate(
        self,
        prompt: _Tokens,
        max_tokens: int = 256,
        temperature: float = 1.0,
        top_p: float = 0.7,
        top_k: int = 0,
        stop: _Text | Iterable[_Text] | None = None,
        seed: int = 0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        penalty_decay: float = 0.996,
        *,
        state: State | None = None,
    ) -> str: ...
    def stream(
        self,
        prompt: _Tokens,
        max_tokens: int = 256,
        temperature: float = 1.0,
        top_p: float = 0.7,
        top_k: int = 0,
        stop: _Text | Iterable[_Text] | None = None,
        seed: int = 0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        penalty_decay: float = 0.996,
        *,
        state: State | None = None,
    ) -> Generation: ...
    def extract(
        self,
        document: _Text,
        schema: Mapping[str, str],
        *,
        free: bool = False,
        none_bias: float | None = None,
        max_tokens: int | None = None,
        progress: _Progress | None = None,
    ) -> Extraction: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
        /,
    ) -> None: ...
