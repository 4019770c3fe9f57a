"""Jobs labelled on more than one machine, by Ray Data: an actor on each node that holds a pool of its own.

    import ray
    import guardpool.ray
    ray.init("auto")                      # a cluster that the program names; none is joined otherwise
    outcomes = guardpool.ray.label(ray.data.read_parquet("jobs/"), [guard])
    outcomes.write_parquet("outcomes/")

Needs the extra `guardpool[ray]`. Ray schedules, moves blocks and starts again what died: a node's death costs its blocks in
flight a second run, and nothing else. The cluster is trusted, because it runs pickles: guards, policies and backends travel to
its nodes as such. A guard is as untrusted there as anywhere, and labels that come back are checked again (`outcomes`).

A pool sees the jobs of its own batches only: guards whose labels depend on the jobs before, and sessions (`Job.session`) that
several batches have a part of, begin anew with each actor.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from guardpool import arrow
from guardpool.batch.jobline import JobParser
from guardpool.batch.pieces import Piece, pieces_of, portions_of
from guardpool.errors import CallerError, HostError
from guardpool.guard import Guard
from guardpool.jobs import Prepared
from guardpool.limits import Limits
from guardpool.outcomes import Outcome

if TYPE_CHECKING:
    import pyarrow as pa
    from ray.data import Dataset

    from guardpool.pool import GuardPool

# Rows that an actor gets at a time: enough that all its workers are busy, and little to do again when it dies.
BATCH_ROWS = 4096
# `id` is what tells a job from another one in a dataset, which has no order.
_NEEDED = ("id", "op", "tool_name")
# One CPU of a node is left to the tasks that read and write: with none, a dataset that is still to be read waits for ever.
_LEFT_CPUS = 1
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
    batches = iter(dataset.iter_batches(batch_format="pyarrow", batch_size=None))
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except Exception as error:
            raise _own_error(error) from error
        yield from arrow.outcomes_from(batch)


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
        row in Parquet, counted through all files.

    Raises:
        CallerError: Ray was not initialised by the program.
        HostError: an extra is not installed, or no node has two CPUs.
        guardpool.batch.files.FileError: a file cannot be read.
        VersionsDiffer, ClusterFailed, BadOutcome: as for `outcomes`, while outcomes are taken.
    """
    ray = _joined()
    pieces = pieces_of(paths)
    if not pieces:
        return iter(())
    rows = [{"piece": msgspec.json.encode(piece)} for piece in pieces]
    # A block each: what is done again when a node dies is one piece.
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    labelled = _on_every_node(ray, dataset, _PieceLabeller, guards, nodes, options, 1)
    return (msgspec.structs.replace(each, id=_id_of(each.id)) for each in outcomes(labelled))


def _on_every_node(
    ray: Any,
    dataset: Dataset,
    labeller: type,
    guards: Sequence[Guard],
    nodes: int | None,
    options: dict[str, Any],
    batch_rows: int,
) -> Dataset:
    alive = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    cpus = [int(count) for count in alive if count > _LEFT_CPUS]
    if not cpus:
        raise HostError(
            "no node of the cluster has two CPUs: one is for reading and writing, the others are for guards"
        )
    options = {**options, "workers": options.get("workers") or min(cpus)}
    actors = nodes or len(cpus)
    return dataset.map_batches(
        labeller,
        fn_constructor_args=(list(guards), options, versions(options.get("engine", "auto"))),
        batch_format="pyarrow",
        batch_size=batch_rows,
        num_cpus=min(cpus) - _LEFT_CPUS,
        compute=ray.data.ActorPoolStrategy(min_size=actors, max_size=actors),
    )


class _Labeller:
    """The actor of a node: a pool that lives as long as it."""

    def __init__(self, guards: list[Guard], options: dict[str, Any], wanted: dict[str, str]) -> None:
        from guardpool.pool import GuardPool

        here = versions(options.get("engine", "auto"))
        wrong = [f"{name} {here[name]}, not {version}" for name, version in wanted.items() if here[name] != version]
        if wrong:
            raise VersionsDiffer(f"a node of the cluster has {', '.join(wrong)}: install the same on all of them")
        self._pool = GuardPool(guards, **options)


class _BatchLabeller(_Labeller):
    """Ray calls it with a batch of jobs at a time."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        table = arrow.table(self._pool.map(arrow.jobs_from(batch)))
        # The id as it was: a batch whose ids happen to be numbers must not have another type than the next one.
        return table.set_column(table.schema.get_field_index("id"), batch.schema.field("id"), batch.column("id"))


class _PieceLabeller(_Labeller):
    """Ray calls it with a piece of a file at a time. Ids are JSON text, because those of one file may be of several types."""

    def __init__(self, guards: list[Guard], options: dict[str, Any], wanted: dict[str, str]) -> None:
        super().__init__(guards, options, wanted)
        limits: Limits = options.get("limits") or Limits()
        self._parser = JobParser([guard.name for guard in guards], limits.max_input_bytes)

    def __call__(self, batch: pa.Table) -> pa.Table:
        import pyarrow

        made: list[Outcome] = []
        for row in batch.column("piece").to_pylist():
            piece = msgspec.json.decode(row, type=Piece)
            made += _labelled(self._pool, portions_of(piece, self._parser))
        table = arrow.table(made)
        ids = pyarrow.array([msgspec.json.encode(each.id).decode() for each in made], pyarrow.string())
        return table.set_column(0, "id", ids)


def _labelled(pool: GuardPool, portions: Iterator[list[Prepared]]) -> list[Outcome]:
    """Label portions of jobs, which a thread reads meanwhile; outcomes in the order of the jobs."""
    stream = pool.stream()
    failures: list[Exception] = []

    def feed() -> None:
        try:
            for portion in portions:
                stream.put(portion)
        except Exception as error:
            failures.append(error)
        stream.finish()

    feeder = threading.Thread(target=feed, name="guardpool-feeder", daemon=True)
    feeder.start()
    made: list[Outcome] = []
    try:
        while some := stream.take():
            made += some
    finally:
        stream.close()
    feeder.join()
    if failures:
        raise failures[0]
    return made


def versions(engine: str) -> dict[str, str]:
    """What must be equal on all nodes: the versions of guardpool and of the engine that the word means."""
    from guardpool import __version__
    from guardpool.machine.engines import choose_engine

    choice = choose_engine(engine)
    return {"guardpool": __version__, "the engine": f"{choice.name} {choice.version}"}


def _id_of(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:  # a number past what Python holds
        return msgspec.Raw(text.encode())


def _own_error(error: Exception) -> HostError:
    """What a program is told of an error of Ray's, which keeps only the text of what was raised on a node."""
    text = _COLOURS.sub("", str(error))
    raised = [found for found in _RAISED.findall(text) if not found[0].startswith("ray.")]
    ours = [found for found in raised if found[0].startswith("guardpool.")]
    if not raised:
        return ClusterFailed(f"the cluster gave up: {text.strip().partition(chr(10))[0] or type(error).__name__}")
    name, message = (ours or raised)[-1]
    if name.endswith(f".{VersionsDiffer.__name__}"):
        return VersionsDiffer(message)
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
