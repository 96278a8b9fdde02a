"""`python -m benchmarks`: measures, prints a table and writes it as JSON."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import against, chart, machine, soak
from benchmarks.analyzed import ROWS as ANALYZED
from benchmarks.analyzed import analyzed
from benchmarks.brought import row_24
from benchmarks.cpu import row_9
from benchmarks.drive import SMALL, make_model, targets
from benchmarks.durable import row_12
from benchmarks.fetch_perf_analyzer import missing
from benchmarks.idle import row_10
from benchmarks.neighbours import row_8, row_15, row_23
from benchmarks.opening import row_16
from benchmarks.overload import row_6, row_7
from benchmarks.packed import row_3, row_4
from benchmarks.process import HERE, ROOT, Checkout, checkout_at
from benchmarks.report import TITLES, Line, Report, combine, markdown, read
from benchmarks.rollouts import row_21, row_22
from benchmarks.scaling import row_20
from benchmarks.soak import row_11
from benchmarks.startup import row_14
from benchmarks.streams import row_2, row_5
from benchmarks.timing import FULL, QUICK, SMOKE, Effort
from benchmarks.turns import row_1
from stepstream_server.cores import default_workers

_RESULTS = Path(__file__).parent / "results"
_REFERENCE = _RESULTS / "reference.json"
_ON_TARGETS = {2: row_2, 3: row_3, 4: row_4, 5: row_5, 6: row_6, 7: row_7, 8: row_8, 9: row_9, 16: row_16}
_ON_THEIR_OWN = {10: row_10, 11: row_11, 20: row_20}
_OF_SHIPPED = {21: row_21, 22: row_22}
_OWN_WORKERS = {10, 11, 20, 23}  # rows of servers that are told how many, or run by default
_FEW_CORES = 4
_QUIET_LOAD = 0.5  # processes
_DOCUMENT = ROOT / "docs" / "performance.md"  # the plots lie beside it
_BEGIN, _END = "<!-- begin of figures -->", "<!-- end of figures -->"


def main() -> None:
    """Compares the server with its kernel and with an echo."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument("--rows", help=f"which, as in 1,5; all: {','.join(map(str, TITLES))}")
    parser.add_argument(
        "--against", type=Path, metavar="DIR", help=f"compare with the server of another checkout: rows {', '.join(against.ROWS)}"
    )
    parser.add_argument("--workers", type=int, metavar="N", help=f"of the servers, but for rows {_listed(_OWN_WORKERS)}")
    parser.add_argument("--quick", action="store_const", dest="effort", const=QUICK, default=FULL, help="two minutes, rougher")
    parser.add_argument("--smoke", action="store_const", dest="effort", const=SMOKE, help="only whether it works")
    parser.add_argument("--rounds", type=int, metavar="N", help="of every row, rather than as many as each has")
    parser.add_argument("--out", type=Path, help="where the JSON goes (default: latest.json or against.json among the results)")
    parser.add_argument("--adopt", type=Path, metavar="JSON", help="measure nothing; make an earlier result the documented one")
    arguments = parser.parse_args()
    if arguments.adopt:
        _adopt(read(arguments.adopt))
        return
    here = dataclasses.replace(HERE, workers=arguments.workers)
    effort: Effort = arguments.effort
    try:
        if arguments.rounds is not None:
            effort = effort.with_rounds(arguments.rounds)
        if arguments.against:
            rows, other = against.chosen(arguments.rows), checkout_at(arguments.against, arguments.workers)
        else:
            numbers = _rows(arguments.rows)
    except ValueError as error:
        parser.error(str(error))
    told = [] if arguments.rounds is None else [f"Rounds of every row, as told: {arguments.rounds}."]
    if arguments.against:
        _compare({"this": here, "other": other}, rows, effort, told, arguments.out or _RESULTS / "against.json")
    else:
        _report(here, numbers, effort, told, arguments.out or _RESULTS / "latest.json")


def _report(checkout: Checkout, rows: Collection[int], effort: Effort, told: Sequence[str], out: Path) -> None:
    """Measures this checkout alone. told: what was asked for beside the rows."""
    notes = [*_notes(rows, checkout.workers), *told]
    report = Report(effort.name, machine.describe(), notes, _measure(rows, effort, checkout))
    report.write(out)
    report.show(_console())


def _compare(sides: against.Sides, rows: Collection[str], effort: Effort, told: Sequence[str], out: Path) -> None:
    """Measures two checkouts in alternation."""
    notes = [*_notes({int(row) for row in rows if row != against.TURNS}, sides["this"].workers), *told]
    if sides["other"].workers is None:
        notes.append("The other checkout's server has as many workers as it has by default.")
    with _telling() as tell:
        compared = against.compare(sides, rows, effort, tell)
    facts = {"effort": effort.name, "machine": machine.describe(), "notes": notes}
    against.write(out, facts | {name: str(side.root) for name, side in sides.items()}, compared)
    against.show(_console(), compared)
    for note in notes:
        print(note)


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 240)


@contextmanager
def _telling(total: int | None = None) -> Iterator[Callable[..., None]]:
    """Progress on a terminal only, and drawn between runs: nothing else may run beside them."""
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("starting", total=total)
        yield lambda what, done=None: progress.update(task, description=what, completed=done, refresh=True)


def _measure(rows: Collection[int], effort: Effort, checkout: Checkout) -> list[Line]:
    """The rows in order."""
    lines: list[Line] = []
    with _telling(len(rows)) as show, tempfile.TemporaryDirectory() as folder:

        def tell(what: str) -> None:
            show(what, len({each.row for each in lines}))

        for measured in _runs(Path(folder), rows, effort, checkout, tell):
            lines += measured()
    return sorted(lines, key=lambda each: each.row)


def _runs(
    folder: Path, rows: Collection[int], effort: Effort, checkout: Checkout, tell: Callable[[str], None]
) -> list[Callable[[], list[Line]]]:
    """What to call for the rows asked for."""
    bundle = make_model(folder / "served", SMALL)

    def on_targets() -> list[Line]:
        with targets(bundle, checkout) as compared:
            return [each for row in _ON_TARGETS if row in rows for each in _ON_TARGETS[row](compared, effort, tell)]

    runs: list[Callable[[], list[Line]]] = []
    if 1 in rows:
        runs.append(lambda: row_1(folder / "turns", effort, tell))
    if 24 in rows:
        runs.append(lambda: row_24(folder / "brought", effort, tell))
    if set(_ON_TARGETS) & set(rows):
        runs.append(on_targets)
    runs += [partial(row, bundle, effort, tell) for number, row in _ON_THEIR_OWN.items() if number in rows]
    if 12 in rows:
        runs.append(lambda: row_12(bundle, effort, tell, checkout))
    if 14 in rows:
        runs.append(lambda: row_14(bundle.path.parent, effort, tell, checkout))
    if 15 in rows:
        runs.append(lambda: row_15(bundle, effort, tell, checkout))
    runs += [partial(row, effort, tell, checkout) for number, row in _OF_SHIPPED.items() if number in rows]
    if 23 in rows:
        runs.append(lambda: row_23(folder / "predicting", effort, tell))
    if ANALYZED & set(rows) and not missing():
        runs.append(lambda: analyzed(folder / "analyzed", rows, effort, tell, checkout))
    return runs


def _adopt(report: Report) -> None:
    """Writes a result as the reference and into the documentation: the table between its marks, and the plots.

    Rows that it lacks stay as they are.
    """
    report = combine(report, read(_REFERENCE))
    report.write(_REFERENCE)
    memory = next(each for each in report.lines if each.row == 11)
    chart.plot(report.lines, _DOCUMENT.with_name("throughput.png"))
    soak.plot(memory, _DOCUMENT.with_name("memory.png"))
    pictures = (
        f"![Ratios with a target, and steps per second by number of workers](throughput.png)\n\n![{memory.case}](memory.png)\n"
    )
    before, _, rest = _DOCUMENT.read_text().partition(_BEGIN)
    _, _, after = rest.partition(_END)
    _DOCUMENT.write_text(f"{before}{_BEGIN}\n{markdown(report)}\n{pictures}{_END}{after}")


def _rows(text: str | None) -> tuple[int, ...]:
    """All if nothing is asked for. Raises ValueError."""
    rows = tuple(TITLES) if text is None else tuple(int(each) for each in text.split(","))
    if unknown := set(rows) - set(TITLES):
        raise ValueError(f"no such row: {sorted(unknown)}; there are {sorted(TITLES)}")
    return rows


def _listed(rows: Collection[int]) -> str:
    return ", ".join(map(str, sorted(rows)))


def _notes(rows: Collection[int], told: int | None) -> list[str]:
    """What a reader must know of the machine as it is before the run, and of the workers that servers were told to have."""
    cores, load, workers = machine.describe()["cores"], os.getloadavg()[0], default_workers()
    notes = [f"Workers of the server by default: {workers}; processes of the echo: {max(1, workers)}."]
    if told is not None:
        notes[0] = f"Workers of the server, as told: {told}; processes of the echo: {max(1, told)}."
    if cores < _FEW_CORES:
        wanted = "the generator, the server's workers, or its event loop where it has none, and its engine"
        notes.append(f"On {cores} cores {wanted} compete: under load each wants one.")
    if load > _QUIET_LOAD:
        notes.append(
            f"Other work ran on the machine: when the run began, {load:.1f} processes had been running over the last minute."
        )
    if (ANALYZED | {20}) & set(rows) and (why := missing()):
        notes.append(
            f"What perf_analyzer measures, rows {min(ANALYZED)} to {max(ANALYZED)} and half of row 20, are left out: {why}."
        )
    return notes


if __name__ == "__main__":
    main()
