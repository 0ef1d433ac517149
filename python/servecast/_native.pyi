from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from typing import Any, Literal, final

__version__: str

_Buffers = tuple[int, list[tuple[str, str, tuple[Any, ...]]]]

@final
class Outcome:
    def report_json(self) -> str: ...
    def table(self) -> str: ...
    def requests_jsonl(self) -> bytes: ...
    def request_columns(self) -> tuple[_Buffers, _Buffers]: ...
    def iteration_columns(self) -> _Buffers | None: ...
    def notes(self) -> list[str]: ...
    def page(self) -> str: ...
    def chart(self) -> str: ...
    def timeline(self, window: str | None, sample: int) -> bytes: ...

@final
class Compared:
    def __new__(cls, differences: list[str], reports: list[str]) -> Compared: ...
    def json(self) -> str: ...
    def table(self) -> str: ...

@final
class Answer:
    def json(self) -> str: ...
    def table(self) -> str: ...
    def csv(self) -> str: ...
    def start(self) -> str: ...
    def notes(self) -> list[str]: ...

_Router = Callable[[RoutedRequest, tuple[Candidate, ...]], Candidate | int]
_Priority = Callable[[WaitingRequest], float]
_Own = tuple[_Router | Callable[[], _Router] | None, _Priority | Callable[[], _Priority] | None]
_Given = tuple[str, bytes | None, bool, list[Callable[[Batch], float]], str, _Own]
_Phase = Literal["aggregated", "prefill", "decode"]
_Role = Literal["decode", "prefill"]
_Selected = tuple[str, _Phase, int, int, int, int, int, int, float]
_Requests = list[tuple[str, _Phase]]
_Changed = tuple[_Requests, _Requests, list[_Selected]]
_Worker = tuple[int, _Role, int, int, int | None]
_Load = tuple[int, int, int, int, int, float]
_Applied = tuple[int, int, list[str]]

@final
class Batch:
    @property
    def requests(self) -> int:
        """Requests with at least one scheduled token."""
    @property
    def tokens(self) -> int:
        """Scheduled tokens, whatever they are."""
    @property
    def attention_pairs(self) -> int:
        """Query-key pairs that causal attention covers."""
    @property
    def prompt_requests(self) -> int:
        """Requests that compute prompt tokens."""
    @property
    def prompt_tokens(self) -> int:
        """Prompt tokens that are computed."""
    @property
    def prompt_start_tokens(self) -> int:
        """Sum of the prompt positions at which their chunks start: cached prefix and earlier chunks."""
    @property
    def decode_requests(self) -> int:
        """Requests that get a token other than their first."""
    @property
    def decode_context_tokens(self) -> int:
        """Sum of their contexts: prompt and all tokens produced so far."""
    @property
    def kv_capacity_tokens(self) -> int:
        """Tokens that the KV cache can hold."""

@final
class RoutedRequest:
    @property
    def id(self) -> int:
        """Its number, in order of arrival."""
    @property
    def pool(self) -> Literal["aggregated", "prefill", "decode"]:
        """The pool that it is routed in."""
    @property
    def now_ms(self) -> float:
        """When it is routed."""
    @property
    def arrival_ms(self) -> float:
        """When it came to the deployment."""
    @property
    def prompt_tokens(self) -> int:
        """Tokens of its prompt."""
    @property
    def max_tokens(self) -> int:
        """Most tokens that it generates; 1 in a prefill pool."""
    @property
    def priority(self) -> int:
        """Its priority in the load."""
    @property
    def session(self) -> int | None:
        """The number of its session, in order of first appearance."""
    @property
    def class_name(self) -> str | None:
        """Its class, where the load tells classes apart."""
    @property
    def lora(self) -> int | None:
        """Number of its LoRA adapter, in order of first appearance."""
    @property
    def block_size(self) -> int:
        """Tokens of a KV block of the pool."""
    def prefix_hashes(self, block_size: int | None = None) -> list[int]:
        """Return a name for each full block of its prompt and all before it: equal ones are equal prefixes."""

@final
class Candidate:
    @property
    def worker(self) -> int:
        """Its number within its pool."""
    @property
    def in_flight(self) -> int:
        """Requests that were sent to it and have not left it."""
    @property
    def running(self) -> int:
        """Those that run."""
    @property
    def waiting(self) -> int:
        """Those that wait."""
    @property
    def capacity_blocks(self) -> int:
        """KV blocks that it has."""
    @property
    def free_blocks(self) -> int:
        """KV blocks that no request holds."""
    @property
    def overlap_blocks(self) -> int:
        """Full blocks of the prompt that it has cached, as far as KV events say by then; 0 in a decode pool."""
    @property
    def prefill_tokens(self) -> int:
        """Prompt tokens that it has yet to compute, with this request on it; 0 in a decode pool."""
    @property
    def active_blocks(self) -> int:
        """KV blocks of the prompts of its requests, each once, with this request on it; 0 in a prefill pool."""
    @property
    def cost(self) -> float:
        """What the KV-aware router would go by, in blocks; the lowest would be its choice."""

@final
class WaitingRequest:
    @property
    def id(self) -> int:
        """Its number, in order of arrival."""
    @property
    def arrival_ms(self) -> float:
        """When it came to the deployment."""
    @property
    def prompt_tokens(self) -> int:
        """Tokens of its prompt."""
    @property
    def max_tokens(self) -> int:
        """Most tokens that it generates; 1 in a prefill pool."""
    @property
    def priority(self) -> int:
        """Its priority in the load."""
    @property
    def session(self) -> int | None:
        """The number of its session, in order of first appearance."""
    @property
    def class_name(self) -> str | None:
        """Its class, where the load tells classes apart."""
    @property
    def lora(self) -> int | None:
        """Number of its LoRA adapter, in order of first appearance."""

@final
class Router:
    def __new__(cls, config: str, block_size: int, seed: int) -> Router: ...
    def register_worker(self, worker: _Worker, now_ms: float) -> _Changed: ...
    def remove_worker(self, worker_id: int, now_ms: float) -> _Changed: ...
    def route(
        self, request_id: str, asked: dict[str, Any], now_ms: float
    ) -> tuple[_Selected | None, list[_Selected], int]: ...
    def book(self, request_id: str, rank: tuple[int, int], asked: dict[str, Any], now_ms: float) -> _Selected: ...
    def select(self, asked: dict[str, Any], now_ms: float) -> _Selected: ...
    def potential_loads(self, asked: dict[str, Any], now_ms: float) -> list[_Load]: ...
    def mark_prefill_complete(self, request_id: str, now_ms: float) -> list[_Selected]: ...
    def record_output(self, request_id: str, generated: int, now_ms: float) -> None: ...
    def free(self, request_id: str, phase: _Phase | None, now_ms: float) -> list[_Selected]: ...
    def apply_events(self, events: str, now_ms: float) -> _Applied: ...
    def apply_message(self, rank: tuple[int, int], frames: list[bytes], now_ms: float) -> _Applied: ...
    def dump(self, now_ms: float) -> str: ...
    def workers(self) -> list[_Worker]: ...
    def queued_requests(self) -> int: ...

def block_hashes(tokens: Sequence[int], block_size: int, lora_name: str, namespace: str, eagle: bool) -> list[int]: ...
def sequence_hashes(block_hashes: Sequence[int]) -> list[int]: ...
def main(arguments: Sequence[str | PathLike[str]]) -> int: ...
def run(
    given: _Given,
    progress: Callable[[float, int, int], object] | None = None,
) -> Outcome: ...
def run_many(
    given: Sequence[_Given],
    threads: int,
    progress: Callable[[int, int], object] | None = None,
) -> list[Outcome]: ...
def recommend(
    given: _Given,
    asked: str,
    evaluate: Callable[[str, bytes | None, list[str]], Iterator[tuple[int, str]]] | None = None,
    progress: Callable[[float, int, int, int, str | None], object] | None = None,
) -> Answer: ...
def load_rows(settings: str, trace: bytes | None) -> tuple[bytes, int, list[str]]: ...
def differences(texts: list[str]) -> list[str]: ...
def simulate(question: str, trace: bytes | None, trial: str) -> str: ...
def similar_argument(name: str, arguments: Sequence[str]) -> str | None: ...
def check_settings(kind: str, given: str) -> str: ...
def default_settings(kind: str) -> str: ...
