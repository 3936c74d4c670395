"""One pass over a table: from rows without a result to the columns of a table.

Each sample is opened and decoded once, in a worker process, and prepared there for every scorer. Batches are scored in
the process that has the model, and each result is on disk before the next batch. At the end results are joined to the
table by key. The processes of a launch never talk to each other: each scores the rows whose key falls to it, and the
main one waits until the others have ended.
"""
