"""Jobs labelled on more than one machine, by Ray Data: an actor on each node that holds a pool of its own.

    import ray
    import guardpool.ray
    ray.init("auto")                      # a cluster that the program names; none is joined otherwise
    outcomes = guardpool.ray.label(ray.data.read_parquet("jobs/"), [guard])
    outcomes.write_parquet("outcomes/")

Needs the extra `guardpool[ray]`. Ray schedules, moves blocks and starts again what died: a node's death costs its blocks in
flight a second run, and nothing else. The cluster is trusted, because it runs pickles: guards, policies and backends travel to
its nodes as such. A guard is as untrusted there as anywhere, and labels that come back are checked again (`outcomes`).

A pool sees the jobs of its own batches only: guards whose labels depend on the jobs before, and sessions (`Job.session`) whose
jobs are in several batches, begin anew with each actor.
"""

from __future__ import annotations

import inspect
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import msgspec

from guardpool import arrow
from guardpool.batch.files import FileError
from guardpool.batch.job_columns import JobColumns
from guardpool.batch.jobline import JobParser
from guardpool.batch.outcome_lines import outcomes_of_lines
from guardpool.batch.parquet_jobs import job_of_row
from guardpool.batch.pieces import Piece, pieces_of, portions_of
from guardpool.batch.writer import encode_outcomes
from guardpool.errors import CallerError, GuardPoolError, HostError
from guardpool.guard import Guard
from guardpool.jobs import Prepared
from guardpool.limits import Limits
from guardpool.outcomes import Outcome
from guardpool.sizes import MIB

if TYPE_CHECKING:
    import pyarrow as pa
    from ray.data import Dataset

    from guardpool.pool import GuardPool

# Rows that an actor gets at a time: enough that all its workers are busy, and little to do again when it dies.
BATCH_ROWS = 4096
# Calls that run at once in an actor: while one reads its first jobs or packs its last outcomes, the other keeps the pool busy.
_CALLS_AT_ONCE = 2
# Pieces for each actor at least, so that all end at about the same time.
_PIECES_EACH = 8
# What comes from a node as one block, of a piece: outcomes of so many jobs, or of inputs of so many bytes. A block costs
# Ray's processes 9 ms, so most pieces are one; a large packed file is many.
_BLOCK_JOBS = 16_384
_BLOCK_BYTES = 16 * MIB
# `id` is what tells a job from another one in a dataset, which has no order.
_NEEDED = ("id", "op", "tool_name")
# One CPU of a node is left to the tasks that read and write: with none, a dataset that is still to be read waits for ever.
_LEFT_CPUS = 1
_LINES = "lines"
_PORTION_JOBS = 256
# The line of a traceback that names what was raised.
_RAISED = re.compile(r"^([A-Za-z_][\w.]*): (.+)$", re.MULTILINE)
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class VersionsDiffer(HostError):
    """A node of the cluster has another guardpool, or another engine, than the program that asks it."""


class ClusterFailed(HostError):
    """Ray gave up: what it says is in the message."""


def label(
    dataset: Dataset, guards: Sequence[Guard], *, nodes: int | None = None, batch_rows: int = BATCH_ROWS, **options: Any
) -> Dataset:
    """Label a dataset of jobs on every node of the cluster that the program has joined.

    Args:
        dataset: a `ray.data.Dataset` whose rows are jobs: the columns of `guardpool.arrow.jobs_from`, `id` among them.
        guards: as for `GuardPool`; they must survive pickle, backends included.
        nodes: how many actors; None: one for each node that has at least two CPUs.
        batch_rows: rows an actor gets at a time; those of one that dies are labelled again by another one.
        options: as for `GuardPool`. Without `workers` each actor has one for each CPU of the smallest of those nodes.

    Returns:
        A dataset with the columns of `guardpool.arrow.table`, a row for each job, in no order; lazy, as datasets are. `id` has
        the type that it has in `dataset`. `outcomes` gives its rows as outcomes, checked.

        Every row is there once, even if nodes die, with one exception: where the outcomes of one block of `dataset` take more
        than `DataContext.target_max_block_size` (128 MiB), Ray cuts them by their bytes. If a node dies between two cuts, and
        a job has another status the second time, the cuts may fall elsewhere. `dataset.repartition` makes blocks smaller.

    Raises:
        CallerError: Ray was not initialised by the program, or the dataset's rows are not jobs.
        HostError: the extra is not installed, or no node has two CPUs.
        VersionsDiffer: while rows are made, wrapped in an error of Ray's.
    """
    ray = _joined()
    schema = dataset.schema()  # None if it has no row
    names = [] if schema is None else schema.names
    missing = [name for name in _NEEDED if name not in names]
    if missing:
        raise CallerError(
            f"the dataset has no column {' and no column '.join(missing)}; it has {', '.join(map(str, names)) or 'none'}"
        )
    return _on_every_node(ray, dataset, _BatchLabeller, guards, nodes, options, batch_rows)


def outcomes(dataset: Dataset) -> Iterator[Outcome]:
    """The rows of `label`'s dataset as outcomes, whose labels are checked again here, where they are used.

    Raises:
        guardpool.arrow.BadOutcome: a row is not an outcome, or its label is not one that a pool gives.
        VersionsDiffer: of a node.
        ClusterFailed: Ray gave up for another reason.
    """
    for block in _blocks(dataset):
        yield from arrow.outcomes_from(block)


def _blocks(dataset: Dataset) -> Iterator[pa.Table]:
    """What a dataset holds, as it comes; what Ray raises becomes an error of ours."""
    blocks = iter(dataset.iter_batches(batch_format="pyarrow", batch_size=None))
    while True:
        try:
            block = next(blocks)
        except StopIteration:
            return
        except Exception as error:
            raise _own_error(error) from error
        yield block


def label_files(
    paths: Sequence[str], guards: Sequence[Guard], *, nodes: int | None = None, **options: Any
) -> Iterator[Outcome]:
    """Label files of jobs on every node of the cluster that the program has joined; `guardpool label --ray` calls it.

    The nodes read the files themselves, some MiB or a row group at a time; only outcomes come here.

    Args:
        paths: files of lines (also gzip or zstd) and Parquet, folders and globs, local ones or URLs that fsspec knows. Every
            node must be able to read them under the same name.
        guards, nodes, options: as for `label`.

    Returns:
        An outcome for each job, checked, in no order. A job without an id has the number of its first byte as one, or of its
        row in Parquet, counted through all files, where a packed file counts for more than it can hold.

    Raises:
        CallerError: Ray was not initialised by the program.
        HostError: an extra is not installed, or no node has two CPUs.
        guardpool.batch.files.FileError: a file cannot be read; also while outcomes are taken, if it is damaged.
        guardpool.batch.binary.NotLines: no line of a file can be a job.
        VersionsDiffer, ClusterFailed, BadOutcome: as for `outcomes`, while outcomes are taken.
    """
    ray = _joined()
    cpus = _cpus_of_nodes(ray)
    pieces = pieces_of(paths, (nodes or len(cpus)) * _PIECES_EACH)
    if not pieces:
        return iter(())
    rows = [{"piece": msgspec.json.encode(piece)} for piece in pieces]
    # A block each: what is done again when a node dies is one piece.
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    # Every row of lines is a block of its own. Ray would join and cut them by their bytes, and a piece that is labelled again
    # after some of its blocks were taken must give the others with the same jobs in them.
    dataset.context.target_max_block_size = 1
    return _outcomes_of_lines(_on_every_node(ray, dataset, _PieceLabeller, guards, nodes, options, 1))


def _outcomes_of_lines(dataset: Dataset) -> Iterator[Outcome]:
    for block in _blocks(dataset):
        for cell in block.column(_LINES):
            yield from outcomes_of_lines(memoryview(cell.as_buffer()))


def _on_every_node(
    ray: Any,
    dataset: Dataset,
    labeller: type,
    guards: Sequence[Guard],
    nodes: int | None,
    options: dict[str, Any],
    batch_rows: int,
) -> Dataset:
    cpus = _cpus_of_nodes(ray)
    options = {**options, "workers": options.get("workers") or min(cpus)}
    actors = nodes or len(cpus)
    return dataset.map_batches(
        labeller,
        fn_constructor_args=(list(guards), options, versions(options.get("engine", "auto"))),
        batch_format="pyarrow",
        batch_size=batch_rows,
        num_cpus=min(cpus) - _LEFT_CPUS,
        **_actors(ray.data.ActorPoolStrategy, actors),
    )


def _actors(strategy: Callable[..., Any], count: int) -> dict[str, Any]:
    """Arguments of `map_batches` for so many actors, each of which has several calls at a time."""
    options = {"size": count, "enable_true_multi_threading": True}
    if "max_concurrent_calls_per_actor" in inspect.signature(strategy).parameters:
        return {"compute": strategy(**options, max_concurrent_calls_per_actor=_CALLS_AT_ONCE)}
    return {"compute": strategy(**options), "max_concurrency": _CALLS_AT_ONCE}  # before Ray 2.59


def _cpus_of_nodes(ray: Any) -> list[int]:
    """The CPUs of each node that an actor has room on.

    Raises:
        HostError: there is none.
    """
    alive = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    cpus = [int(count) for count in alive if count > _LEFT_CPUS]
    if not cpus:
        raise HostError(
            "no node of the cluster has two CPUs: one is for reading and writing, the others are for guards"
        )
    return cpus


class _Labeller:
    """The actor of a node, with a pool that lives as long as the actor does. Ray calls it from several threads."""

    def __init__(self, guards: list[Guard], options: dict[str, Any], wanted: dict[str, str]) -> None:
        from guardpool.pool import GuardPool

        here = versions(options.get("engine", "auto"))
        wrong = [f"{name} {here[name]}, not {version}" for name, version in wanted.items() if here[name] != version]
        if wrong:
            raise VersionsDiffer(f"a node of the cluster has {', '.join(wrong)}: install the same on all of them")
        limits: Limits = options.get("limits") or Limits()
        self._names, self._max_input_bytes = [guard.name for guard in guards], limits.max_input_bytes
        self._pool = GuardPool(guards, **options)

    def _parser(self) -> JobParser:
        return JobParser(self._names, self._max_input_bytes)


class _BatchLabeller(_Labeller):
    """Ray calls it with a batch of jobs at a time."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        labelled = _labelled(self._pool, _portions_of(batch, self._parser()))
        table = arrow.table(chain.from_iterable(labelled))
        # The id as it was: a batch whose ids happen to be numbers must not have another type than the next one.
        return table.set_column(table.schema.get_field_index("id"), batch.schema.field("id"), batch.column("id"))


def _portions_of(batch: pa.Table, parser: JobParser) -> Iterator[list[Prepared]]:
    columns = JobColumns(batch.schema)
    number = 0
    for part in batch.to_batches(max_chunksize=_PORTION_JOBS):
        yield [job_of_row(row, at, parser) for at, row in enumerate(columns.rows(part), number)]
        number += part.num_rows


class _PieceLabeller(_Labeller):
    """Ray calls it with a piece of a file at a time. It gives lines: the program reads one in a quarter of a row's time."""

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        import pyarrow as pa

        [row] = batch.column("piece").to_pylist()
        portions = portions_of(msgspec.json.decode(row, type=Piece), self._parser())
        for made in _labelled(self._pool, portions):
            yield pa.table({_LINES: pa.array([encode_outcomes(made)], pa.large_binary())})


def _labelled(pool: GuardPool, portions: Iterable[list[Prepared]]) -> Iterator[list[Outcome]]:
    """Label portions of jobs, which a thread reads meanwhile.

    Returns:
        The outcomes in the order of the jobs, at least one list of them. How many jobs a list is of depends on the jobs only,
        and on nothing that happens.
    """
    stream = pool.stream()
    ends: deque[int] = deque()  # before which jobs a list ends
    failures: list[Exception] = []

    def feed() -> None:
        jobs = begin = size = 0
        try:
            for portion in portions:
                jobs += len(portion)
                size += sum([len(job.payload) for job in portion])
                if size >= _BLOCK_BYTES or jobs - begin >= _BLOCK_JOBS:
                    ends.append(jobs)
                    begin, size = jobs, 0
                stream.put(portion)
        except Exception as error:
            failures.append(error)
        stream.finish()

    feeder = threading.Thread(target=feed, name="guardpool-feeder", daemon=True)
    feeder.start()
    made: list[Outcome] = []
    begin = 0
    try:
        while some := stream.take():
            made += some
            while ends and len(made) >= ends[0] - begin:
                count = ends.popleft() - begin
                yield made[:count]
                del made[:count]
                begin += count
    finally:
        stream.close()
    feeder.join()
    if made or not begin:
        yield made
    if failures:
        raise failures[0]


def versions(engine: str) -> dict[str, str]:
    """What must be equal on all nodes: the versions of guardpool and of the engine that the word means."""
    from guardpool import __version__
    from guardpool.machine.engines import choose_engine

    return {"guardpool": __version__, "the engine": choose_engine(engine).version}


def _own_error(error: Exception) -> GuardPoolError:
    """What a program is told of an error of Ray's, which keeps only the text of what was raised on a node."""
    text = _COLOURS.sub("", str(error))
    raised = [found for found in _RAISED.findall(text) if not found[0].startswith("ray.")]
    ours = [found for found in raised if found[0].startswith("guardpool.")]
    if not raised:
        return ClusterFailed(f"the cluster gave up: {text.strip().partition(chr(10))[0] or type(error).__name__}")
    name, message = (ours or raised)[-1]
    for kind in (VersionsDiffer, FileError):
        if name.endswith(f".{kind.__name__}"):
            return kind(message)
    return ClusterFailed(f"the cluster gave up: {name.rpartition('.')[2]} on a node: {message}")


def import_ray() -> Any:
    """Ray with Ray Data.

    Raises:
        HostError: it is not installed; the message says what to type.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise HostError(f"ray is not installed ({error}): run: pip install 'guardpool[ray]'") from None
    return ray


def _joined() -> Any:
    ray = import_ray()
    if not ray.is_initialized():
        raise CallerError("no cluster is joined: call ray.init(...) first, and name the cluster there")
    return ray
