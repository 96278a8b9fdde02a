"""`python -m benchmarks`: measures, prints a table and writes it as JSON."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Collection
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import chart, machine, soak
from benchmarks.analyzed import ROWS as ANALYZED
from benchmarks.analyzed import analyzed
from benchmarks.cpu import row_9
from benchmarks.drive import bundle_folder, targets
from benchmarks.fetch_perf_analyzer import missing
from benchmarks.idle import row_10
from benchmarks.neighbours import row_8, row_15, row_23
from benchmarks.opening import row_16
from benchmarks.overload import row_6, row_7
from benchmarks.packed import row_3, row_4
from benchmarks.process import ROOT
from benchmarks.report import TITLES, Line, Report, combine, markdown, read
from benchmarks.rollouts import row_21, row_22
from benchmarks.scaling import row_20
from benchmarks.soak import row_11
from benchmarks.startup import row_14
from benchmarks.streams import row_2, row_5
from benchmarks.timing import FULL, QUICK, SMOKE, Effort
from benchmarks.turns import row_1
from stepstream_server.bundles import init_model
from stepstream_server.cores import default_workers

_RESULTS = Path(__file__).parent / "results"
_REFERENCE = _RESULTS / "reference.json"
_EFFORTS = {"full": FULL, "quick": QUICK, "smoke": SMOKE}
_ON_TARGETS = {2: row_2, 3: row_3, 4: row_4, 5: row_5, 6: row_6, 7: row_7, 8: row_8, 9: row_9, 16: row_16}
_ON_THEIR_OWN = {10: row_10, 11: row_11, 15: row_15, 20: row_20}
_OF_SHIPPED = {21: row_21, 22: row_22}
_FEW_CORES = 4
_QUIET_LOAD = 0.5  # processes
_DOCUMENT = ROOT / "docs" / "performance.md"  # the plots lie beside it
_BEGIN, _END = "<!-- begin of figures -->", "<!-- end of figures -->"


def main() -> None:
    """Compares the server with its kernel and with an echo."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument("--rows", type=_rows, default=tuple(TITLES), help=f"which, as in 1,5; all: {','.join(map(str, TITLES))}")
    parser.add_argument(
        "--quick", action="store_const", dest="effort", const="quick", default="full", help="two minutes, rougher"
    )
    parser.add_argument("--smoke", action="store_const", dest="effort", const="smoke", help="only whether it works")
    parser.add_argument("--out", type=Path, default=_RESULTS / "latest.json", help="where the JSON goes (default: %(default)s)")
    parser.add_argument("--adopt", type=Path, metavar="JSON", help="measure nothing; make an earlier result the documented one")
    arguments = parser.parse_args()
    if arguments.adopt:
        _adopt(read(arguments.adopt))
        return
    report = Report(
        arguments.effort, machine.describe(), _notes(arguments.rows), _measure(arguments.rows, _EFFORTS[arguments.effort])
    )
    report.write(arguments.out)
    report.show(Console(width=None if sys.stdout.isatty() else 240))


def _measure(rows: Collection[int], effort: Effort) -> list[Line]:
    """The rows in order. Progress on a terminal only, and drawn between runs: nothing else may run beside them."""
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("starting", total=len(rows))
        lines: list[Line] = []

        def tell(what: str) -> None:
            done = len({each.row for each in lines})
            progress.update(task, description=what, completed=done, refresh=True)

        with tempfile.TemporaryDirectory() as folder:
            for measured in _runs(Path(folder), rows, effort, tell):
                lines += measured()
    return sorted(lines, key=lambda each: each.row)


def _runs(folder: Path, rows: Collection[int], effort: Effort, tell: Callable[[str], None]) -> list[Callable[[], list[Line]]]:
    """What to call for the rows asked for."""
    bundle = init_model(bundle_folder(folder / "served"), "lstm", 16, 128, 1, 1, seed=0)

    def on_targets() -> list[Line]:
        with ExitStack() as stack:
            compared = stack.enter_context(targets(bundle))
            return [each for row in _ON_TARGETS if row in rows for each in _ON_TARGETS[row](compared, effort, tell)]

    runs: list[Callable[[], list[Line]]] = []
    if 1 in rows:
        runs.append(lambda: row_1(folder / "turns", effort, tell))
    if set(_ON_TARGETS) & set(rows):
        runs.append(on_targets)
    runs += [partial(row, bundle, effort, tell) for number, row in _ON_THEIR_OWN.items() if number in rows]
    if 14 in rows:
        runs.append(lambda: row_14(bundle.path.parent, effort, tell))
    runs += [partial(row, effort, tell) for number, row in _OF_SHIPPED.items() if number in rows]
    if 23 in rows:
        runs.append(lambda: row_23(folder / "predicting", effort, tell))
    if ANALYZED & set(rows) and not missing():
        runs.append(lambda: analyzed(folder / "analyzed", rows, effort, tell))
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


def _rows(text: str) -> tuple[int, ...]:
    rows = tuple(int(each) for each in text.split(","))
    if unknown := set(rows) - set(TITLES):
        raise argparse.ArgumentTypeError(f"no such row: {sorted(unknown)}; there are {sorted(TITLES)}")
    return rows


def _notes(rows: Collection[int]) -> list[str]:
    """What a reader must know of the machine as it is before the run."""
    cores, load, workers = machine.describe()["cores"], os.getloadavg()[0], default_workers()
    notes = [f"Workers of the server by default: {workers}; processes of the echo: {max(1, workers)}."]
    if cores < _FEW_CORES:
        notes.append(f"On {cores} cores the generator, the server's workers and its engine compete: under load each wants one.")
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
