"""What a session was sent and what came of it, against the reference.

Inputs are noted when they are sent and compared when their outcomes have been heard. Until then the reference does not move, so
that it can also tell what must have become of inputs that were dropped halfway.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from stepstream_server.engine.ports import Keep
from stepstream_server.errors import Reason
from support.reference import Outcome, ReferenceSession
from support.transcript import Transcript


@dataclass(frozen=True)
class Row:
    """Steps."""

    first: int
    values: tuple[float, ...]
    keep: Keep

    @property
    def steps(self) -> int:
        return len(self.values)

    def play(self, reference: ReferenceSession, told: Sequence[Outcome]) -> Iterator[Outcome]:
        """`told`: what was heard from here on, which says where the server has cut a chunk that failed."""
        failed_from = next((each[0] for each in told if len(each) == 3 and each[1] is Reason.NON_FINITE_STATE), None)
        return reference.send(self.first, self.values, self.keep, failed_from=failed_from)


@dataclass(frozen=True)
class Zero:
    """A reset."""

    first: int
    steps = 1

    def play(self, reference: ReferenceSession, told: Sequence[Outcome]) -> Iterator[Outcome]:
        return reference.reset(self.first)


@dataclass(frozen=True)
class Resend:
    """What an attach brings by itself."""

    steps: int

    def play(self, reference: ReferenceSession, told: Sequence[Outcome]) -> Iterator[Outcome]:
        return reference.resend()


@dataclass(frozen=True)
class Ack:
    """An acknowledgement, which has no outcome."""

    count: int
    steps = 0

    def play(self, reference: ReferenceSession, told: Sequence[Outcome]) -> Iterator[Outcome]:
        reference.acknowledge(self.count)
        return iter(())


Input = Row | Zero | Resend | Ack


@dataclass(eq=False)
class Live:
    """An open session: where it surely stands, what is on its way, and where it will stand then."""

    id: str
    secret: bytes
    known: ReferenceSession  # as far as outcomes were heard
    idle_ttl: float  # seconds
    used_at: float  # monotonic seconds of the server's clock
    stream: Transcript | None = None
    handle: int = 0
    heard: int = 0  # outcomes of this handle that have been compared
    log: list[Input] = field(default_factory=list)  # on its way
    in_doubt: bool = False  # poison is on its way: where the chunk will fail is not known yet
    repeats: bool = False  # repeats are on their way
    freed_late: bool = False  # acknowledged meanwhile, and repeats may hold up the release of kept answers

    def __post_init__(self) -> None:
        self.ahead = self.known.copy()  # when all on its way has arrived
        self.point = self.known.next_seq  # the admission point as it will be, if nothing fails

    def __repr__(self) -> str:
        return f"<{self.id[:4]} {self.known.acked}/{self.known.next_seq}/{self.point}>"

    @property
    def on_its_way(self) -> int:
        """Outcomes that have not been heard."""
        return sum(each.steps for each in self.log)

    def surely_behind(self, given: Input) -> bool:
        """Whether an input is refused alike before and after the failure of the poison in front of it."""
        room = min(self.known.window_steps, self.known.window_kept)
        fits = given.steps <= room - (self.point - self.ahead.acked)
        sound = not isinstance(given, Row) or all(value == value for value in given.values)
        return isinstance(given, Row | Zero) and given.first == self.point and fits and sound

    def note(self, given: Input) -> None:
        """An input was sent. A count beyond what is known is clamped there: nothing is on its way then."""
        if isinstance(given, Ack):
            given = Ack(min(given.count, self.known.next_seq))
        self.log.append(given)
        if self.in_doubt:
            self.point += given.steps
            return
        if isinstance(given, Ack):
            self.freed_late |= self.repeats
        elif isinstance(given, Row | Zero):
            self.repeats |= given.first < self.ahead.next_seq
        outcomes = list(given.play(self.ahead, ()))
        self.in_doubt = any(len(each) == 3 and each[1] is Reason.NON_FINITE_STATE for each in outcomes)
        self.point = outcomes[-1][0] + 1 if self.in_doubt else self.ahead.next_seq

    def settle(self, told: Sequence[Outcome], now: float, *, dropped: bool = False, acked: int | None = None) -> None:
        """Compares what was heard since the last time. `dropped`: the rest was not applied and never will be.

        acked: what the session says; None where all that was sent before has been read.
        """
        before, expected = self.known.next_seq, self._play(told)
        for place, outcome in enumerate(told):
            wanted = next(expected, None)
            assert outcome == wanted, f"outcome {place} of {self.log}: expected {wanted}, got {outcome} among {list(told)}"
        rest = None if dropped else next(expected, None)
        assert rest is None, f"expected {rest} after {list(told)} of {self.log}"
        if acked is not None:
            self._settle_acked(acked)
        self._restart(before, now)

    def find_out(self, quarantined: bool) -> None:
        """Whether poison had its effect although nobody was told."""
        self.known.quarantined = self.ahead.quarantined = quarantined

    def settle_cut(self, told: Sequence[Outcome], now: float, next_seq: int, acked: int, quarantined: bool) -> None:
        """The same where a stream broke: how much of what was not heard has been applied is seen in the session."""
        before = self.known.next_seq
        unheard: list[Outcome] = [(next_seq, Reason.NON_FINITE_STATE, next_seq)] if quarantined else []
        expected, heard = self._play(told, unheard), 0
        while heard < len(told) or (self.known.next_seq, self.known.quarantined) != (next_seq, quarantined):
            outcome = next(expected, None)
            assert outcome is not None, f"{self.log} cannot have led to {next_seq}, {quarantined} after {list(told)}"
            assert heard >= len(told) or outcome == told[heard], f"{self.log}: expected {outcome}, got {told[heard]}"
            heard += 1
        self._settle_acked(acked)
        self._restart(before, now)

    def _settle_acked(self, acked: int) -> None:
        """Which acknowledgements came in time. The last one surely did."""
        counts = [each.count for each in self.log if isinstance(each, Ack)]
        assert acked in {self.known.acked, *counts}, f"{acked} was never acknowledged: {self.log}, {self.known.acked}"
        assert acked >= max(self.known.acked, counts[-1])
        self.known.acked = acked
        self.log = [each for each in self.log if not isinstance(each, Ack)]

    def _play(self, told: Sequence[Outcome], unheard: Sequence[Outcome] = ()) -> Iterator[Outcome]:
        """What the reference has to say to all that is on its way, step by step."""
        place = 0
        for given in self.log:
            for outcome in given.play(self.known, [*told[place:], *unheard]):
                yield outcome
                place += 1

    def _restart(self, before: int, now: float) -> None:
        """Nothing is on its way any more. Acknowledgements count even if inputs in front of them were dropped."""
        for given in self.log:
            if isinstance(given, Ack):
                self.known.acknowledge(given.count)
        if self.known.next_seq != before:
            self.used_at = now
        self.log, self.in_doubt, self.repeats, self.freed_late = [], False, False, False
        self.ahead, self.point = self.known.copy(), self.known.next_seq
