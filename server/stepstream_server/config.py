"""Settings: one frozen record per concern, units in names, every default with its reason.

`sources.py` fills them from flags, environment and a TOML file. Flags, their help and `docs/settings.md` are derived from
them, so a new setting is one field here. Everyone else is handed the record that concerns it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from stepstream_server.cores import default_workers


def split_address(address: str) -> tuple[str, int]:
    """`HOST:PORT` -> (host, port); an IPv6 host stands in brackets. Port 0 lets the system choose. Raises ValueError."""
    parts = re.fullmatch(r"(?:\[([^\[\]]+)\]|([^:\[\]]+)):([0-9]{1,5})", address)
    if parts is None or int(parts[3]) > 65535:
        raise ValueError("expected HOST:PORT with a port from 0 to 65535, like 127.0.0.1:8101 or [::1]:8101")
    return parts[1] or parts[2], int(parts[3])


def join_address(host: str, port: int) -> str:
    """(host, port) -> `HOST:PORT`, as `split_address` takes it apart."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bound_address(address: str, port: int) -> str:
    """`HOST:PORT` as asked for, and the port as it was had -> `HOST:PORT` with that."""
    return join_address(split_address(address)[0], port)


def cannot_listen(setting: str, address: str, cause: object) -> OSError:
    """The error of an address that cannot be had: names the setting, the address and why."""
    return OSError(f"{setting}: cannot listen on {address}: {cause}")


def _checked_address(address: str) -> str:
    split_address(address)
    return address


def _checked_optional_address(address: str) -> str:
    return _checked_address(address) if address else ""


_SHORTEST_HEARTBEAT_SECONDS = 0.1  # with a hundredth of a second no worker outlived its first collection of garbage


def _checked_heartbeat(seconds: float) -> float:
    if 0 < seconds < _SHORTEST_HEARTBEAT_SECONDS:
        raise ValueError(f"expected 0 or at least {_SHORTEST_HEARTBEAT_SECONDS:g}: good workers are often busy for a moment")
    return seconds


_LONGEST_SOCKET_PATH = 103  # bytes: what macOS takes; Linux takes 107


def _checked_socket(path: str) -> str:
    if (length := len(os.fsencode(path))) > _LONGEST_SOCKET_PATH:
        raise ValueError(f"expected the path of a socket, which the system bounds to {_LONGEST_SOCKET_PATH} bytes, got {length}")
    return path


Address = Annotated[str, AfterValidator(_checked_address)]
OptionalAddress = Annotated[str, AfterValidator(_checked_optional_address)]
SocketPath = Annotated[str, AfterValidator(_checked_socket)]
Heartbeat = Annotated[float, AfterValidator(_checked_heartbeat)]


class Section(BaseModel):
    """A group of settings: immutable, and refusing keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class EngineSettings(Section):
    """Sessions, queues and turns of one model."""

    capacity: int = Field(
        default=100_000,
        gt=0,
        description="Sessions that may be open at once. 100,000 of H = 128, one layer, take 100 MB of state and as much again.",
    )
    idle_ttl_seconds: float = Field(
        default=3600.0,
        gt=0,
        description="A session without a step for this long is closed. An hour outlasts a sensor's reconnect and a user's lunch.",
    )
    max_lifetime_seconds: float = Field(
        default=0.0,
        ge=0,
        description="A session older than this is closed, busy or not. 0: never, since a sensor may stream for months.",
    )
    tombstone_seconds: float = Field(
        default=600.0,
        ge=0,
        description="How long the reason of a session's end is remembered, so that a late caller is told it.",
    )
    window_steps: int = Field(
        default=1024,
        gt=0,
        description="Unacknowledged steps per session: a prompt of 1,000 tokens in one row, or 10 s of readings at 100 Hz.",
    )
    window_bytes: int = Field(
        default=1 << 20,
        gt=0,
        description="Bytes of unacknowledged outputs per session: a quarter of gRPC's default message limit of 4 MiB.",
    )
    cache_bytes: int = Field(
        default=1 << 30,
        gt=0,
        description="Bytes of unacknowledged outputs of all sessions; beyond it steps with outputs are refused. "
        "A thousand sessions may fill their windows.",
    )
    max_pending_steps: int = Field(
        default=1 << 18,
        gt=0,
        description="Steps queued in the engine over all sessions; beyond it they are refused. Half a second of H = 128.",
    )
    max_batch: int = Field(
        default=1024,
        gt=0,
        description="Rows of one launch. Beyond 512 rows the time per row no longer falls; more only adds latency.",
    )
    max_rollout_paths: int = Field(
        default=4096,
        gt=0,
        description="Paths of rollouts at once, each with a slot beside those of sessions. A caller alone has at most half of "
        "them, two forecasts of 1,024 paths, or ten of 100 beside a thousand texts that write themselves; the next one has less, "
        "and something is always left.",
    )
    rollout_hold_seconds: float = Field(
        default=0.03,
        ge=0,
        description="How long a rollout's draws may wait for the next ones, to be told in one message; not its first and last. "
        "Nobody reads thirty times a second, and a message costs more than a draw. 0: each is told at once.",
    )
    rollout_unread_seconds: float = Field(
        default=60.0,
        gt=0,
        description="A rollout ends that waits for its reader for so long, who has taken nothing of what it was told. A minute "
        "outlasts a network's hiccup; a reader that hangs for longer would keep paths, and perhaps a session, from others.",
    )
    turn_budget_seconds: float = Field(
        default=0.002,
        gt=0,
        description="Time that chunk steps may take of a turn while single steps wait: what a single step may be held up.",
    )
    alone_budget_seconds: float = Field(
        default=0.020,
        gt=0,
        description="The same while nothing else waits: the longest that a newcomer waits for a chunk to be cut.",
    )
    max_wait_seconds: float = Field(
        default=0.0,
        ge=0,
        description="How long an idle engine waits for more steps before it runs the first. 0: a turn gathers enough.",
    )


def _checked_store(url: str) -> str:
    if url and url != "memory:" and not (url.startswith("sqlite:") and len(url) > len("sqlite:")):
        raise ValueError("expected memory:, sqlite:FILE, or nothing")
    return url


StoreUrl = Annotated[str, AfterValidator(_checked_store)]


class StoreSettings(Section):
    """The place where durable sessions are kept, and how far it may be behind."""

    url: StoreUrl = Field(
        default="",
        description="Where durable sessions are kept: sqlite:FILE, on a disk of this machine; or memory:, which dies with the "
        "server and is for trying things out. None: no session is durable, since a place for them cannot be guessed.",
    )
    durable: Literal["asked", "always"] = Field(
        default="asked",
        description="Which sessions are durable: those whose opener asks for it, and those of models that are set so; or always.",
    )
    every_seconds: float = Field(
        default=0.1,
        gt=0,
        description="A durable session is written so long after its first step that is not in the store. A tenth of a second: "
        "what a client has to replay is computed in a moment, and a busy session is written ten times a second.",
    )
    every_steps: int = Field(
        default=256,
        gt=0,
        description="A durable session is written after so many steps that are not in the store, if that is sooner. Clients are "
        "ready to keep four times as many inputs, so that writing never makes them wait.",
    )
    max_lag_seconds: float = Field(
        default=5.0,
        gt=0,
        description="While a step has waited for the store for longer, no new durable sessions are opened: a disk that is slow "
        "for a moment turns nobody away, one that is full does.",
    )


class ModelSettings(Section):
    """One model, in a table `model.NAME` of the file."""

    durable: bool = Field(
        default=False,
        description="Sessions of this model are durable though their opener does not ask for it, as in Open Inference Protocol.",
    )


class BackendSettings(Section):
    """What computes, and on what."""

    kind: Literal["onnx", "torch"] = Field(
        default="onnx",
        description="onnx (ONNX Runtime on CPU, the fastest measured there) or torch (CUDA, and the reference on CPU).",
    )
    device: str = Field(
        default="cpu",
        pattern=r"^(cpu|cuda(:\d+)?)$",
        description="cpu, cuda or cuda:N. cuda needs kind torch.",
    )
    threads: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="Threads of one launch. 0: one for less than 256 rows of a model of up to 2 MiB, which are computed before "
        "others have woken; else the cores that workers leave, as many as there are by default.",
    )
    spinning: bool = Field(
        default=False,
        description="Idle compute threads spin instead of sleeping. Off: they would take the cores that the front door needs.",
    )
    trial_seconds: float = Field(
        default=1.0,
        gt=0,
        le=3600,
        description="Processor time at the start in which larger and larger batches of a program are tried: no launch is larger "
        "than what was tried. One second, so that a server of several programs starts soon; a large model wants more.",
    )

    @model_validator(mode="after")
    def _device_fits_kind(self) -> Self:
        if self.kind == "onnx" and self.device != "cpu":
            raise ValueError(f"device {self.device!r} needs kind 'torch'; kind 'onnx' computes on 'cpu' alone")
        return self


class DoorSettings(Section):
    """The gRPC front door: messages, streams and how it stops."""

    max_message_bytes: int = Field(
        default=4 << 20,
        ge=1 << 10,
        le=1 << 30,
        description="Bytes of one message, either way. gRPC's own default of 4 MiB, so that no client needs an option.",
    )
    stream_credit_steps: int = Field(
        default=8192,
        gt=0,
        description="Steps in flight of one stream beyond which it is not read: eight ticks of a gateway with 1,000 sessions. "
        "A step with more than 2 KiB of outputs counts as one for each 2 KiB, so that 8,192 stand for 16 MiB.",
    )
    max_unread_bytes: int = Field(
        default=1 << 30,
        gt=0,
        description="Answers that wait to be read by clients, of all streams; beyond it the stream with most of them is ended. "
        "64 streams may fill their credits, and a client that reads has next to nothing here.",
    )
    max_block_steps: int = Field(
        default=65_536,
        gt=0,
        description="Steps of one block. 16 float32 features fill a message of 4 MiB with as many.",
    )
    max_handles_per_stream: int = Field(
        default=65_536,
        gt=0,
        description="Sessions attached to one stream: a large gateway's, at some 100 bytes each.",
    )
    max_streams: int = Field(
        default=10_000,
        gt=0,
        description="Streams at once over all connections: a stream each for ten thousand devices, at some 35 KB each; and as "
        "many watches of the health. As other bounds on all, it is shared out evenly among workers, to whom the system deals "
        "connections not quite so evenly.",
    )
    max_concurrent_streams: int = Field(
        default=1000,
        gt=0,
        le=2**31 - 1,
        description="Calls and streams of one connection at once: clients have more of them wait, or connect again, and who "
        "does neither is refused. A hundred streams of each of ten gateways behind one proxy; a client that resets calls as fast "
        "as it begins them can have no more than these take memory.",
    )
    max_calls: int = Field(
        default=4096,
        gt=0,
        description="Calls other than streams at once, health apart. Half a second of them: who would wait longer is told to "
        "come back.",
    )
    step_timeout_seconds: float = Field(
        default=30.0,
        gt=0,
        description="How long a unary Step may take when its caller sets no deadline. A step takes milliseconds.",
    )
    drain_seconds: float = Field(
        default=30.0,
        ge=0,
        description="How long stopping waits for accepted steps, and then for clients that move the sessions which their streams "
        "hold. A pod's termination grace period must be longer.",
    )
    keepalive_seconds: float = Field(
        default=60.0,
        ge=1,
        description="Silence after which the server pings a client: a dead one shows in a minute; gRPC advises not much less.",
    )
    keepalive_timeout_seconds: float = Field(
        default=20.0,
        ge=1,
        description="How long a ping may go unanswered before the connection counts as dead: gRPC's default.",
    )
    silent_connection_seconds: float = Field(
        default=10.0,
        ge=0.1,
        le=86_400,
        description="How long a new connection may take to begin to speak HTTP/2, TLS included; then it is closed. Far links "
        "need a second or two; gRPC's 120 let anybody hold a descriptor for two minutes.",
    )
    min_client_ping_seconds: float = Field(
        default=10.0,
        ge=0,
        description="Clients that ping an idle connection more often are cut off. gRPC's 300 would cut off those behind a NAT.",
    )
    tls_cert: str = Field(
        default="",
        description="File of the server's certificate and what leads to its authority (PEM): then TLS alone is spoken. Read anew "
        "when it changes, with those below, for new connections. None: plaintext, since a certificate cannot be had by default.",
    )
    tls_key: str = Field(
        default="",
        description="File of the private key of the certificate (PEM), unencrypted: the server starts without anybody.",
    )
    tls_client_ca: str = Field(
        default="",
        description="File of authorities (PEM): each client must show a certificate of one of them. None: clients need none.",
    )
    tokens: str = Field(
        default="",
        description="File of tenants (TOML): the hashes of their tokens, the names in their certificates, their limits. It is "
        "read again when it changes. None: whoever reaches the server may call, as on one's own machine.",
    )

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError(f"tls_cert and tls_key: expected both or neither, got {'tls_cert' if self.tls_cert else 'tls_key'}")
        if self.tls_client_ca and not self.tls_cert:
            raise ValueError("tls_client_ca: expected tls_cert and tls_key with it, got neither")
        return self


LogLevel = Literal["debug", "info", "warning", "error"]


class LogSettings(Section):
    """What is logged, to stderr."""

    level: LogLevel = Field(
        default="info",
        description="debug, info, warning or error. At info: the server's life and its failures, nothing per step. SIGHUP has it "
        "read anew from the file.",
    )
    format: Literal["auto", "json", "console"] = Field(
        default="auto",
        description="json, console or auto: console on a terminal, json otherwise, since a collector reads it there.",
    )


class Settings(Section):
    """Everything that can be set."""

    models: Path = Field(
        default=Path("models"),
        description="Folder whose sub-folders are bundles. Beside where the server is started, unless told.",
    )
    strict_models: bool = Field(
        default=False,
        description="One broken bundle keeps the server from starting. Off: it is logged and counted, and the others serve; a "
        "copy that went wrong should not take every model away.",
    )
    listen: Address = Field(
        default="127.0.0.1:8101",
        description="Where gRPC is served, HOST:PORT. Port 0: any free one. Loopback: nothing is exposed until asked for.",
    )
    metrics: Address = Field(
        default="127.0.0.1:8102",
        description="Where Prometheus finds /metrics, HOST:PORT. Port 0: any free one. Loopback, as above.",
    )
    health: OptionalAddress = Field(
        default="",
        description="Where grpc.health.v1 alone is served besides, HOST:PORT, in plaintext: for probes, which speak no TLS, and "
        "for which there is room there when all connections of `listen` are taken. Port 0: any free one. None: `listen` does.",
    )
    admin: SocketPath = Field(
        default="",
        description="Where administrators reach the server, as a path: a Unix socket that its owner alone can open, for "
        "`stepstream-server admin`. None: nowhere, since whoever can open it can close any session.",
    )
    workers: int = Field(
        default=-1,
        ge=-1,
        le=256,
        description="Processes that speak gRPC, in front of the one that computes. 0: none, one process does both. "
        "-1: none on up to 3 cores, where a process costs more than it brings; else as many as half of the cores, at most 4: the "
        "more there are, the fewer steps each brings for a turn.",
    )
    worker_heartbeat_seconds: Heartbeat = Field(
        default=1.0,
        ge=0,
        description="How often each worker is asked whether it goes on. One that has not answered five times in a row is killed "
        "and replaced: a flood holds a good one up for some seconds, and those who connect to one that hangs wait meanwhile. At "
        "least 0.1, or 0: never, for a debugger.",
    )
    on_failure: Literal["exit", "restart"] = Field(
        default="exit",
        description="What follows when an engine crashes or its process dies: exit, with 1, or restart, by a process in front of "
        "it. exit: what runs containers starts them again, and counts how often.",
    )
    engine: EngineSettings = EngineSettings()
    backend: BackendSettings = BackendSettings()
    door: DoorSettings = DoorSettings()
    log: LogSettings = LogSettings()
    store: StoreSettings = StoreSettings()
    model: dict[str, ModelSettings] = Field(default={}, description="Of single models, by name.")

    def keeps_all_of(self, model: str) -> bool:
        """Tells whether sessions of a model are durable that nobody asks to be."""
        return self.store.durable == "always" or (model in self.model and self.model[model].durable)

    @property
    def worker_count(self) -> int:
        """Worker processes, as set or as chosen."""
        return default_workers() if self.workers < 0 else self.workers
