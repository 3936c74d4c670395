"""Filter, sort, join and split tables, and clean captions: python -m pipeline.datasets.datautil META... [verbs]

Verbs are carried out in a fixed order, whatever the order of the flags: tables are joined, compared
with others, measured, captions are cleaned, rows are filtered, sorted, cut to size. What a filter drops
stands with its reason in `<output>_dropped`; kept and dropped rows together are always all rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from clipsheet import tables
from clipsheet.cli import Parser, run_main
from clipsheet.engine import launch
from clipsheet.engine.join import join
from clipsheet.engine.run import compute
from clipsheet.errors import MetaError
from clipsheet.options import RunOptions
from clipsheet.outcome import Status, recording
from clipsheet.store.folder import Store
from clipsheet.store.locks import working_on
from pipeline.datasets.caption_verbs import after_filters, carry_out_on_captions
from pipeline.datasets.row_verbs import (
    check_paths,
    filter_by_bounds,
    filter_by_expressions,
    filter_by_shape,
    intersect,
    measure_size,
    rename,
    select,
    select_columns,
    sort,
    subtract,
)
from pipeline.datasets.sieve import Sieve
from pipeline.datasets.verbs import ALIASES, UtilOptions, Verbs, suffix_of
from scoring.info.scorer import Info


def datautil(
    inputs: Sequence[str],
    verbs: Verbs,
    options: UtilOptions | None = None,
    *,
    run: RunOptions | None = None,
) -> Status:
    """Carry out the verbs on one or more tables joined one after another.

    Args:
        run: how --info measures; its `output` is not used, and what `options` says goes before it.

    Raises:
        MetaError: a table or a column is missing, or a cell stops it.
        StorageError: the output cannot be written.
    """
    options = options or UtilOptions()
    paths = tables.expand(inputs)
    output = _output(paths, verbs, options)
    parts = [output] if verbs.shard is None else _shards(output, verbs.shard, options)
    compared = [Path(t) for t in (verbs.difference, verbs.intersection, verbs.update_text) if t]
    for path in (output, *parts):
        tables.check_output([*paths, *compared], path)
    frame = tables.read(inputs)
    with working_on(output), recording(Status("datautil", output, rows_in=len(frame))) as status:
        sieve = Sieve(frame, verbs.missing, verbs.strict)
        if verbs.difference:
            subtract(sieve, verbs.difference)
        if verbs.intersection:
            intersect(sieve, verbs.intersection)
        if verbs.info or verbs.video_info:
            _measure(sieve, output, _how_to_measure(options, run or RunOptions()), status)
        check_paths(sieve, verbs)
        carry_out_on_captions(sieve, verbs, status)
        if verbs.filesize or verbs.fsmin is not None or verbs.fsmax is not None:
            measure_size(sieve)
        filter_by_expressions(sieve, verbs)
        filter_by_bounds(sieve, verbs)
        filter_by_shape(sieve, verbs)
        after_filters(sieve, verbs)
        rename(sieve, verbs)
        sort(sieve, verbs)
        select(sieve, verbs)
        select_columns(sieve, verbs)
        tables.write_parts(sieve.frame, parts)
        tables.write_sidecar(sieve.dropped(), output, "dropped")
        if verbs.info or verbs.video_info or verbs.load_caption:
            tables.write_sidecar(sieve.failed(), output, "failed")
        status.rows_out = len(sieve.frame)
        status.scored = len(sieve.frame)
        status.dropped = dict(sieve.reasons)
    return status


def _output(paths: list[Path], verbs: Verbs, options: UtilOptions) -> Path:
    first = paths[0].with_suffix(f".{options.format}") if options.format else paths[0]
    suffix = suffix_of(verbs) or ("merged" if len(paths) > 1 else "")
    if not suffix and not options.output and verbs.shard is None:
        if first == paths[0]:
            raise MetaError("no verb given: nothing to do (see --help)")
        suffix = "converted"
    return tables.output_path(first, suffix or "shard", options.output)


def _shards(output: Path, count: int, options: UtilOptions) -> list[Path]:
    """Tables of equal length: `<stem>_0`, `<stem>_1`, ..."""
    stem = output.stem if options.output else output.stem.removesuffix("_shard")
    return [output.with_name(f"{stem}_{number}{output.suffix}") for number in range(count)]


def _how_to_measure(options: UtilOptions, run: RunOptions) -> RunOptions:
    workers = 1 if options.disable_parallel else options.num_workers or run.num_workers
    return dataclasses.replace(run, num_workers=workers, root=options.root or run.root)


def _measure(sieve: Sieve, output: Path, run: RunOptions, status: Status) -> None:
    """The columns of --info, from the store where they are known."""
    store = Store(output.parent, run.reader, run.models)
    compute(sieve.frame, [Info()], run, store, launch.Rank(), "info")
    joined = join(sieve.frame, [Info()], run, store)
    sieve.frame = joined.frame
    if len(joined.failed):
        sieve.failures.append(joined.failed)
    status.failed, status.failed_rows = joined.status_counts, joined.failed_rows
    status.pending = joined.pending_rows
    status.judge(max_failed=1.0)  # failures are what a filter is for
    store.cells(Info()).compact()


def main() -> None:
    """The program."""
    parser = Parser(__doc__ or "")
    parser.add_argument("meta", nargs="+", help="table(s): .csv or .parquet; patterns are expanded")
    parser.add_fields(Verbs, "verbs")
    parser.add_fields(UtilOptions, "options")
    fields = {f.name: f for f in dataclasses.fields(Verbs)}
    for alias, name in ALIASES.items():
        kind = {"shard": int}.get(name, str)
        if fields[name].default is False:
            parser.add_argument(
                f"--{alias}", dest=name, action="store_true", default=None, help=f"= --{name}"
            )
        else:
            parser.add_argument(f"--{alias}", dest=name, type=kind, default=None, help=f"= --{name}")
    given = parser.parse_args()
    run_main(lambda: datautil(given.meta, parser.take(Verbs, given), parser.take(UtilOptions, given)))


if __name__ == "__main__":
    main()
