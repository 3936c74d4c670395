"""python -m scoring.embedding.inference META [flags]"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipsheet import tables
from clipsheet.cli import describe, run_main, scorer_parser
from clipsheet.engine.run import run_scorers
from clipsheet.options import RunOptions
from clipsheet.outcome import Status
from clipsheet.store.folder import Store
from clipsheet.store.rows import Rows
from scoring.clip.texts import unit
from scoring.embedding.scorer import Embedding

ROWS_AT_ONCE = 4096


def export(scorer: Embedding, table: Path, options: RunOptions) -> str:
    """Write the embeddings of a scored table's files to a Parquet file beside it; says how many.

    Raises:
        StorageError: the disk is full, or a kept vector is damaged.
    """
    frame = tables.read(table)
    vectors = Store(table.parent, options.reader, options.models).vectors(scorer.feature).load()
    places = vectors.find(Rows(frame).keys(("path",)), scorer.positions)
    rows = np.flatnonzero((places >= 0).all(axis=1))
    paths = tables.text(frame, "path")
    kind = pa.list_(pa.float32())
    schema = pa.schema(
        [
            ("path", pa.string()),
            ("positions", pa.list_(pa.float64())),
            ("vectors", pa.list_(kind)),
            ("mean", kind),
        ]
    )
    output = table.with_name(f"{table.stem}_vectors.parquet")
    with tables.replacing(output) as file, pq.ParquetWriter(file, schema) as writer:
        for start in range(0, len(rows), ROWS_AT_ONCE):
            part = rows[start : start + ROWS_AT_ONCE]
            found = [vectors.read(places[row]) for row in part]
            means = [unit(unit(one).mean(axis=0)).astype(np.float32) for one in found]
            columns = {
                "path": [paths.iat[row] for row in part],
                "positions": [scorer.positions] * len(part),
                "vectors": [list(one) for one in found],
                "mean": means,
            }
            writer.write_table(pa.table(columns, schema))
    return f"vectors of {len(rows)} of {len(frame)} rows in {output}"


def main() -> None:
    """The program."""
    parser = scorer_parser(Embedding, describe(Embedding))
    given = parser.parse_args()

    def program() -> Status:
        scorer, options = parser.take(Embedding, given), parser.take(RunOptions, given)
        status = run_scorers(given.meta, [scorer], options, share=parser.share(given))
        if status.share is None:
            status.message = export(scorer, status.output, options)
        return status

    run_main(program)


if __name__ == "__main__":
    main()
