"""Tables: read and written exactly as they stand, their names, and the `error` column.

A table is a `pandas.DataFrame` whose CSV columns are all text (Arrow strings): a cell is turned into a number only
where a number is needed, so a column that a tool does not own is written byte for byte as it was read. The empty
string is the only missing value. A Parquet file keeps its own types.
"""

from clipsheet.tables.cells import (
    TEXT,
    TEXT_COLUMNS,
    cell,
    format_errors,
    number_text,
    numbers,
    parse_errors,
    set_errors,
    text,
    text_column,
)
from clipsheet.tables.csv import release_memory
from clipsheet.tables.hours import hours
from clipsheet.tables.names import check_ending, check_names, check_output, digest, output_path, sidecar
from clipsheet.tables.parts import is_folder, is_part, parts
from clipsheet.tables.read import concatenate, expand, files, header, read, require
from clipsheet.tables.write import write, write_parts, write_sidecar

__all__ = [
    "TEXT",
    "TEXT_COLUMNS",
    "cell",
    "check_ending",
    "check_names",
    "check_output",
    "concatenate",
    "digest",
    "expand",
    "files",
    "format_errors",
    "header",
    "hours",
    "is_folder",
    "is_part",
    "number_text",
    "numbers",
    "output_path",
    "parse_errors",
    "parts",
    "read",
    "release_memory",
    "require",
    "set_errors",
    "sidecar",
    "text",
    "text_column",
    "write",
    "write_parts",
    "write_sidecar",
]
