"""Finished cells on disk: what makes every run resumable, and every edit of a table harmless.

Beside the tables stands a folder `.clipsheet`, safe to delete (the work is then done again):

    features/<name>-<fingerprint>/  the vectors of one feature, see class VectorFolder
    cells/<scorer>-<fingerprint>/   every verdict of one scorer with one set of parameters
        scorer.txt                  what the fingerprint stands for
        <utc>-<host>-<pid>.jsonl    verdicts as they come, one line each, of one process
        cells.parquet               those of ended processes, put together
    ranks/, locks/                  who is at work

A verdict is found by the key of its row, never by a row number: the cells that the scorer reads and
the size and modification time of the file. So sorted, split, merged and edited tables keep theirs.
"""
