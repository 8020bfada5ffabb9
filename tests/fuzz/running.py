"""Runs cases in processes of their own, each case under a limit of time and memory: what crashes or hangs is seen, kept
and stepped over."""

from __future__ import annotations

import mmap
import os
import resource
import signal
import struct
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runtime.errors import UserError
from tests.fuzz.cases import case
from tests.fuzz.targets import KINDS

SECONDS = (
    10.0  # of processor time for one case: a busy machine's clock says little; the slowest that is right takes 0.4
)
PATIENCE = 120.0  # by the clock: what waits for something that never comes
MEMORY = 2 << 30  # bytes beyond what the process has when it starts
_RECORD = struct.Struct("<qqqqq")  # next seed, taken, refused, wrong, slowest in µs


@dataclass
class Outcome:
    """What became of the cases of one kind."""

    tried: int = 0
    taken: int = 0  # read without complaint
    refused: int = 0  # with a UserError
    slowest: float = 0.0  # s
    failures: Counter[str] = field(default_factory=Counter)  # what it was, for each that should not be
    kept: list[Path] = field(default_factory=list)


def fuzz(kind: str, seeds: range, keep: Path | None = None, until: float = float("inf")) -> Outcome:
    """Feeds the cases `seeds` of `kind`; stops at time.monotonic() `until`. Files that fail are kept in `keep`."""
    outcome, start = Outcome(), seeds.start
    KINDS[kind].warm()
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        while start < seeds.stop and time.monotonic() < until:
            shared = mmap.mmap(-1, _RECORD.size)
            report = Path(folder) / "failures"
            child = os.fork()
            if not child:
                try:
                    _work(kind, range(start, seeds.stop), shared, Path(folder), report, until)
                except BaseException:
                    traceback.print_exc()
                    os._exit(3)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            at, taken, refused, wrong, slowest = _RECORD.unpack(shared[:])
            outcome.taken += taken
            outcome.refused += refused
            outcome.slowest = max(outcome.slowest, slowest / 1e6)
            failures = report.read_text().splitlines() if report.exists() else []
            report.unlink(missing_ok=True)
            ended = os.waitstatus_to_exitcode(status)
            if ended == 0:
                start = at
            else:
                late = {
                    signal.SIGPROF: f"longer than {SECONDS:g} s",
                    signal.SIGALRM: f"waits longer than {PATIENCE:g} s",
                }
                what = late.get(-ended, f"ended by {_name(ended)}")
                failures.append(f"{at} {what}")
                start = at + 1
            for line in failures:
                seed, _, what = line.partition(" ")
                outcome.failures[what] += 1
                if keep and outcome.failures[what] <= 3:
                    keep.mkdir(parents=True, exist_ok=True)
                    path = keep / f"{kind}-{seed}"
                    path.write_bytes(content_of(kind, int(seed)))
                    outcome.kept.append(path)
            outcome.tried += taken + refused + len(failures)
    return outcome


def content_of(kind: str, seed: int) -> bytes:
    return case(KINDS[kind].whole, KINDS[kind].mend, kind, seed)


def _name(ended: int) -> str:
    return signal.Signals(-ended).name if ended < 0 else f"status {ended}"


def _work(kind: str, seeds: range, shared: mmap.mmap, folder: Path, report: Path, until: float) -> None:
    """In the child: one case after the other, its number written down before it is fed."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)  # libtiff says what it thinks of a file
    content_of(kind, 0)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for ends in (signal.SIGALRM, signal.SIGPROF):  # even where C code never returns to Python
        signal.signal(ends, signal.SIG_DFL)
    taken = refused = wrong = slowest = 0
    for seed in seeds:
        shared[:] = _RECORD.pack(seed, taken, refused, wrong, slowest)
        if time.monotonic() > until:
            return
        content = content_of(kind, seed)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        began = time.perf_counter()
        try:
            KINDS[kind].target(content, folder)
            taken += 1
        except UserError:
            refused += 1
        except Exception as error:
            wrong += 1
            place = traceback.extract_tb(error.__traceback__)[-1]
            with report.open("a") as file:
                file.write(
                    f"{seed} {type(error).__name__} in {Path(place.filename).name}:{place.lineno} ({str(error)[:60]!r})\n"
                )
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        slowest = max(slowest, int((time.perf_counter() - began) * 1e6))
    shared[:] = _RECORD.pack(seeds.stop, taken, refused, wrong, slowest)


def table(outcomes: dict[str, Outcome]) -> Iterator[str]:
    """A line a kind, and what failed."""
    yield "kind             tried    read  refused  failed  slowest"
    for kind, one in outcomes.items():
        failed = sum(one.failures.values())
        yield f"{kind:14} {one.tried:7,} {one.taken:7,} {one.refused:8,} {failed:7,}  {one.slowest:6.2f} s"
        for what, count in one.failures.most_common():
            yield f"    {count} x {what}"
    tried = sum(one.tried for one in outcomes.values())
    yield f"tried {tried:,}, crashed {sum(sum(one.failures.values()) for one in outcomes.values()):,}"


Fuzz = Callable[[str, range], Outcome]


def kinds_of(names: Sequence[str]) -> list[str]:
    unknown = [name for name in names if name not in KINDS]
    if unknown:
        raise UserError(f"There is no kind {', '.join(unknown)}: choose of {', '.join(KINDS)}.")
    return list(names) or list(KINDS)
