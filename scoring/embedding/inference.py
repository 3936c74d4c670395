"""python -m scoring.embedding.inference META [flags]"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipsheet import places, tables
from clipsheet.cli import describe, run_main, scorer_parser
from clipsheet.engine.run import run_scorers
from clipsheet.options import RunOptions
from clipsheet.outcome import Status
from clipsheet.store.folder import Store, store_of
from clipsheet.store.rows import Rows
from scoring.clip.texts import unit
from scoring.embedding.scorer import Embedding

ROWS_AT_ONCE = 4096


def export(scorer: Embedding, table: Path, options: RunOptions) -> str:
    """Write the embeddings of a scored table's files to a Parquet file beside it; says how many.

    Raises:
        StorageError: the disk is full, or a kept vector is damaged.
    """
    output = table.with_name(f"{table.stem}_vectors.parquet")
    kind = pa.list_(pa.float32())
    schema = pa.schema(
        [
            ("path", pa.string()),
            ("positions", pa.list_(pa.float64())),
            ("vectors", pa.list_(kind)),
            ("mean", kind),
        ]
    )
    exported = count = 0
    with places.replacing(output) as file, pq.ParquetWriter(file, schema) as writer:
        for part in tables.parts(table) if tables.is_folder(table) else [table]:
            frame = tables.read(part)
            vectors = Store(store_of(part), options.reader, options.models).vectors(scorer.feature).load()
            found = vectors.find(Rows(frame).keys(("path",)), scorer.positions)
            rows = np.flatnonzero((found >= 0).all(axis=1))
            paths = tables.text(frame, "path")
            for start in range(0, len(rows), ROWS_AT_ONCE):
                some = rows[start : start + ROWS_AT_ONCE]
                read = [vectors.read(found[row]) for row in some]
                columns = {
                    "path": [paths.iat[row] for row in some],
                    "positions": [scorer.positions] * len(some),
                    "vectors": [list(one) for one in read],
                    "mean": [unit(unit(one).mean(axis=0)).astype(np.float32) for one in read],
                }
                writer.write_table(pa.table(columns, schema))
            exported, count = exported + len(rows), count + len(frame)
    return f"vectors of {exported} of {count} rows in {output}"


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
