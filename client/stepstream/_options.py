"""How a client connects, and when it tries again: one frozen record, every default with its reason."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path

from stepstream._token import bearer


@dataclass(frozen=True, slots=True, kw_only=True)
class TLS:
    """Credentials of an encrypted connection, each PEM-encoded."""

    root_certificates: bytes | None = None
    """Who may vouch for the server. None: the authorities that gRPC ships."""

    private_key: bytes | None = field(default=None, repr=False)
    """The client's own key, where the server asks for a certificate."""

    certificate_chain: bytes | None = None
    """The client's own certificate, where the server asks for one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """Limits and times of one client, and what it shows. Raises ValueError naming the field that cannot be used."""

    max_message_bytes: int = 4 << 20
    """Largest message sent. 4 MiB is what a gRPC server accepts unless told otherwise."""

    max_block_steps: int = 65_536
    """Most steps in one message: the server's own default. Longer chunks and larger groups travel in several messages."""

    max_answer_bytes: int = 64 << 20
    """Largest message accepted. Answers can be far wider than inputs (logits): 64 MiB is 65,536 steps of 256 logits."""

    keepalive_seconds: float = 60.0
    """Time without traffic after which the server is pinged. gRPC advises against less than a minute."""

    keepalive_timeout_seconds: float = 10.0
    """Time for the ping's answer, beyond which the connection counts as lost."""

    call_timeout_seconds: float = 30.0
    """Time for opening, attaching, detaching, closing and for looking at models; steps themselves may take any time."""

    reconnect_seconds: float = 60.0
    """How long to do without a server, and to be turned away for want of room, before those who wait are told. A minute
    outlasts a network's hiccup and a restart; a server that is gone for longer is somebody's business. 0: never try again."""

    connect_seconds: float = 2.0
    """How long to try a server that has never answered this client: two seconds tell a wrong address from a slow network. 60
    waits for a server that is still starting. It never exceeds `reconnect_seconds`."""

    reconnect_first_seconds: float = 0.1
    """Bound of the first wait before trying again, doubled with each failure; the wait is random below it. gRPC itself waits no
    less than 0.1 s."""

    reconnect_most_seconds: float = 5.0
    """Bound of all later waits: a server that comes back is found within 5 s, and a thousand clients are 400 tries a second."""

    max_sessions_per_stream: int = 65_536
    """Sessions held on one stream, beyond which the client opens another: the server's own default bound."""

    acknowledge_after_seconds: float = 1.0
    """Time after which answers of a session that went quiet are acknowledged by a message of their own, so that the server need
    not keep them. Busy sessions acknowledge with their next input, which costs nothing."""

    replay_bytes: int = 4 << 20
    """Bytes of inputs that are kept of one durable session until its server has them in its store, beyond which steps wait for
    that or go on at a risk. 4 MiB are what one message carries; the server tells how many steps are worth keeping, 1,024 by
    default, so that only steps of more than 4 KiB ever meet this bound."""

    tls: TLS | None = None
    """None: an unencrypted connection, as between programs of one machine or one cluster."""

    token: str | None = field(default=None, repr=False)
    """What the server's operator gave you, shown with every call: over an unencrypted connection as well, since something else
    may encrypt it. None: none is shown."""

    token_file: Path | str | None = None
    """A file with the token instead, which may be replaced at any time: each call and each new stream looks whether it was. White
    space around the token does not count."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name == "reconnect_seconds":
                if not value >= 0:
                    raise ValueError(f"{each.name}: expected 0 or a positive number, got {value!r}")
            elif each.default is not None and not value > 0:  # without a default it is no number
                raise ValueError(f"{each.name}: expected a positive number, got {value!r}")
        if self.token is not None:
            bearer("token", self.token)
            if self.token_file is not None:
                raise ValueError("token and token_file: expected one of them, got both")


class Backoff:
    """Exponential backoff with full jitter, so that many clients of a server that comes back do not all come at once.

    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter. jitter: uniform numbers in [0, 1). clock: seconds.
    """

    def __init__(
        self,
        options: ClientOptions,
        jitter: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
        patience: Callable[[], float] | None = None,
    ) -> None:
        """patience: seconds until it is given up, as things are; None: `reconnect_seconds`."""
        self._options = options
        self._patience = patience or (lambda: options.reconnect_seconds)
        self._jitter = jitter
        self._clock = clock
        self._bound = options.reconnect_first_seconds
        self._spent = 0.0  # seconds without a server, since something last worked, but for those from `_since` on
        self._since: float | None = None

    def left(self) -> float:
        """Seconds of patience left, which from now on run."""
        now = self._clock()
        if self._since is None:
            self._since = now
        return self._patience() - self._spent - (now - self._since)

    def delay(self, advice: float | None) -> float | None:
        """Seconds to wait before another try, at least what the server advised; None: it is time to give up."""
        left = self.left()
        if left <= 0:
            return None
        jittered = self._jitter() * self._bound
        self._bound = min(2 * self._bound, self._options.reconnect_most_seconds)
        return min(max(jittered, advice or 0.0), left)

    def reached(self) -> None:
        """The server has been reached, which does not mean yet that it does what is wanted: patience runs no more."""
        if self._since is not None:
            self._spent += self._clock() - self._since
            self._since = None

    def worked(self) -> None:
        """It did what was wanted: all patience is back."""
        self._spent, self._since, self._bound = 0.0, None, self._options.reconnect_first_seconds
