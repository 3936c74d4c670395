"""The pass: prepared items are collected into batches and scored; each result is on disk before the next batch."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from clipsheet import tables
from clipsheet.engine import launch
from clipsheet.engine.background_calls import Flight
from clipsheet.engine.pool import failure_of
from clipsheet.engine.todo import Embedding, Sample, Work
from clipsheet.errors import ENVIRONMENTAL, ClipsheetError, MediaError, TooManyFailed
from clipsheet.options import RunOptions
from clipsheet.scorer import Featured, Home
from clipsheet.store.cells import Journal

log = logging.getLogger(__name__)
EARLY_ROWS = 200
LAST_BATCH_SECONDS = 60.0  # how long a stopped run waits for the batch in the background


class Pass:
    """Collects prepared items into batches, scores them and keeps the verdicts."""

    def __init__(
        self,
        work: list[Work],
        embeddings: list[Embedding],
        options: RunOptions,
        rank: launch.Rank,
        heartbeat: Callable[[], None],
    ) -> None:
        self._work, self._embeddings, self._options, self._rank = work, embeddings, options, rank
        self._heartbeat = heartbeat
        self._seen = 0
        self._codes: Counter[str] = Counter()
        self._told: set[str] = set()
        # Failures that speak of the machine, kept back until it is clear that they do not.
        self._held: list[tuple[Work, str, MediaError]] | None = []

    def begin(self) -> None:
        """Load server-backed models first, so that an unreachable server fails before anything is decoded."""
        for work in self._work:
            if work.scorer.in_flight and work.todo.any():
                model, scorer = self._model(work), work.scorer
                work.flight = Flight(
                    lambda item, scorer=scorer, model=model: scorer.score(model, [item])[0],  # type: ignore[misc]
                    scorer.in_flight,
                    self._heartbeat,
                )
            elif work.scorer.in_background:
                work.background = Flight(
                    lambda batch, work=work: self._scored(work, batch),  # type: ignore[misc]
                    1,
                )

    def take(self, row: int, result: Any) -> None:
        """What a worker made of a row: an item per wanted scorer and feature, or a MediaError for all."""
        self._heartbeat()
        wanted = [w for w in self._work if w.todo[row]]
        asked = [e for e in self._embeddings if e.owners[row]]
        count = len(wanted) + len(asked)
        results = [result] * count if isinstance(result, MediaError) else result
        for work, item in zip(wanted, results[: len(wanted)], strict=True):
            key = work.keys[row].as_py()
            if isinstance(item, MediaError):
                self._fail(work, key, item)
            elif work.embedding is not None:
                self._featured(work, work.embedding, row, key, item)
            else:
                self._queue(work, key, item)
        for embedding, found in zip(asked, results[len(wanted) :], strict=True):
            self._take_pictures(embedding, row, found)
        for embedding in self._embeddings:
            if embedding.lacking[row]:
                embedding.sample(row).rows -= 1
                embedding.forget(embedding.keys[row].as_py())
        self._seen += 1
        if self._seen == EARLY_ROWS:
            self._check_environment()
            self._release()

    def finish(self) -> None:
        """Score what is left."""
        for embedding in self._embeddings:
            self._encode(embedding)
        for work in self._work:
            self._flush(work)
            self._land_batch(work)
            if work.flight is not None:
                for key, output in work.flight.land():
                    self._landed(work, key, output)
        self._release()

    def close(self) -> None:
        for embedding in self._embeddings:
            if embedding.writer is not None:
                embedding.writer.close()
                embedding.folder.merge()
        for work in self._work:
            if work.flight is not None:
                for key, output in work.flight.close():
                    if not isinstance(output, BaseException):
                        self._keep(work, key, output)
            if work.background is not None:
                for keys, outputs in work.background.close(LAST_BATCH_SECONDS):
                    if not isinstance(outputs, BaseException):
                        self._batch_over(work, keys, outputs)
            if work.journal is not None:
                work.journal.__exit__(None, None, None)
                work.journal = None

    def _queue(self, work: Work, key: str, item: Any) -> None:
        """An item is ready to be scored."""
        if work.flight is not None:
            for ended, output in work.flight.send(key, item):
                self._landed(work, ended, output)
            return
        if work.began.get(key, 0) >= 2:
            self._score_suspect(work, key, item)
            return
        work.batch.append((key, item))
        if len(work.batch) >= min(self._options.bs, work.scorer.largest_batch or self._options.bs):
            self._flush(work)

    # --- features

    def _featured(self, work: Work, embedding: Embedding, row: int, key: str, item: Any) -> None:
        """A scorer's own half of a row: score it where the vectors are there, else let it wait."""
        if not embedding.lacking[row]:
            self._queue(work, key, Featured(embedding.on_disk(row, work.scorer.positions), item))
            return
        sample = embedding.sample(row)
        sample.waiting.append((work, key, item))
        if sample.done:
            self._deliver(sample)

    def _take_pictures(self, embedding: Embedding, row: int, found: Any) -> None:
        """Add the pictures of a file to the batch that is embedded next."""
        key, sample = embedding.keys[row].as_py(), embedding.sample(row)
        if isinstance(found, MediaError):
            found = [(embedding.lacks(row), found)]
        for positions, picture in found:
            if isinstance(picture, MediaError):
                sample.errors |= dict.fromkeys(positions, picture)
        found = [(positions, p) for positions, p in found if not isinstance(p, MediaError)]
        if not found:
            self._done(sample)
            return
        deaths = max((w.began.get(k, 0) for w, k, _ in sample.waiting), default=0)
        if deaths >= 3:
            error = MediaError("crashed", "the process died each time it was scored")
            sample.errors |= dict.fromkeys(embedding.lacks(row), error)
            self._done(sample)
            return
        if deaths == 2:  # alone
            self._encode(embedding)
        embedding.batch.append((key, found))
        if deaths == 2 or len(embedding.batch) >= self._options.bs:
            self._encode(embedding)

    def _encode(self, embedding: Embedding) -> None:
        """Make, keep and hand on the vectors of the pictures that were collected."""
        batch, embedding.batch = embedding.batch, []
        if not batch:
            return
        if not embedding.loaded:
            embedding.model = embedding.feature.load(self._home(on_gpu=True))
            embedding.loaded = True
        if embedding.writer is None:
            embedding.writer = embedding.folder.writer()
        for key, _ in batch:
            for work, own_key, _ in embedding.samples[key].waiting:
                self._journal(work).began(own_key)
                work.marked.add(own_key)
        pictures = [picture for _, found in batch for _, picture in found]

        def encode(pictures: Sequence[np.ndarray]) -> list[Any]:
            vectors = embedding.feature.encode(embedding.model, pictures)
            whole = np.isfinite(vectors).all(axis=1)
            failed = MediaError("nonfinite", f"the vector of {embedding.feature.name}")
            return [vector if fine else failed for vector, fine in zip(vectors, whole, strict=True)]

        outputs = iter(_in_parts(encode, pictures, embedding))
        for key, found in batch:
            sample = embedding.samples[key]
            made = {
                p: vector for (positions, _), vector in zip(found, outputs, strict=False) for p in positions
            }
            sample.errors |= {p: vector for p, vector in made.items() if isinstance(vector, MediaError)}
            vectors = {p: vector for p, vector in made.items() if p not in sample.errors}
            if vectors:
                embedding.writer.append(key, list(vectors), np.stack(list(vectors.values())))
                sample.vectors |= vectors
            self._done(sample)
            embedding.forget(key)
        self._heartbeat()

    def _done(self, sample: Sample) -> None:
        sample.done = True
        self._deliver(sample)

    def _deliver(self, sample: Sample) -> None:
        """Hand a file's vectors, or its failure, to those that wait for them."""
        waiting, sample.waiting = sample.waiting, []
        for work, key, item in waiting:
            errors = [sample.errors[p] for p in work.scorer.positions if p in sample.errors]
            if errors:
                self._fail(work, key, errors[0])
            else:
                vectors = np.stack([sample.vectors[p] for p in work.scorer.positions])
                self._queue(work, key, Featured(vectors, item))

    # --- verdicts

    def _journal(self, work: Work) -> Journal:
        if work.journal is None:
            work.journal = work.cells.journal()
        return work.journal

    def _fail(self, work: Work, key: str, error: MediaError) -> None:
        if error.trace and error.detail not in self._told:
            self._told.add(error.detail)
            log.error("%s: an exception nobody foresaw; its rows fail\n%s", work.scorer.name, error.trace)
        self._codes[error.code] += 1
        if self._held is not None and error.code in ENVIRONMENTAL:
            self._held.append((work, key, error))
        else:
            self._journal(work).failed(key, error, work.tries.get(key, 0) + 1)

    def _release(self) -> None:
        held, self._held = self._held or [], None
        for work, key, error in held:
            self._fail(work, key, error)

    def _check_environment(self) -> None:
        for code, count in self._codes.items():
            if code in ENVIRONMENTAL and count > EARLY_ROWS * len(self._work) / 2:
                for work, key, error in self._held or []:
                    self._journal(work).failed(key, error, tries=0)
                raise TooManyFailed(
                    f"{count} of the first {EARLY_ROWS * len(self._work)} results are `{code}`: is the disk "
                    "mounted? None of that counts; the same command tries them again"
                )

    def _flush(self, work: Work) -> None:
        batch, work.batch = work.batch, []
        if not batch:
            return
        model = self._model(work)
        self._land_batch(work)
        if model is not None:
            for key, _ in batch:
                if key not in work.marked:
                    self._journal(work).began(key)
        work.marked.difference_update(key for key, _ in batch)
        if work.background is not None:
            for keys, outputs in work.background.send([key for key, _ in batch], batch):
                self._batch_over(work, keys, outputs)
        else:
            self._batch_over(work, [key for key, _ in batch], self._scored(work, batch))

    def _scored(self, work: Work, batch: Sequence[tuple[str, Any]]) -> list[Any]:
        return _in_parts(
            lambda items: work.scorer.score(work.model, items), [item for _, item in batch], work
        )

    def _land_batch(self, work: Work) -> None:
        """Wait for the batch that is being scored in the background."""
        if work.background is not None:
            for keys, outputs in work.background.land():
                self._batch_over(work, keys, outputs)

    def _batch_over(self, work: Work, keys: Sequence[str], outputs: Any) -> None:
        if isinstance(outputs, BaseException):
            raise outputs
        for key, output in zip(keys, outputs, strict=True):
            self._keep(work, key, output)
        self._heartbeat()

    def _landed(self, work: Work, key: str, output: Any) -> None:
        """The result of a call that was waited for, or what it raised."""
        if isinstance(output, BaseException) and not isinstance(output, MediaError):
            if isinstance(output, ClipsheetError) or not isinstance(output, Exception):
                raise output
            output = failure_of(output)
        self._keep(work, key, output)
        self._heartbeat()

    def _score_suspect(self, work: Work, key: str, item: Any) -> None:
        """A row at which the process died twice: alone, and a third time never again."""
        if work.began[key] >= 3:
            self._fail(work, key, MediaError("crashed", "the process died each time it was scored"))
            return
        self._flush(work)
        work.batch = [(key, item)]
        self._flush(work)

    def _model(self, work: Work) -> Any:
        if not work.loaded:
            work.model, work.loaded = work.scorer.load(self._home(work.scorer.on_gpu)), True
        return work.model

    def _home(self, on_gpu: bool) -> Home:
        device = launch.device(self._options.use_cpu, self._rank) if on_gpu else "cpu"
        return Home(self._options.models, device, self._options.compile)

    def _keep(self, work: Work, key: str, output: Any) -> None:
        if isinstance(output, MediaError):
            self._fail(work, key, output)
        elif any(isinstance(v, float | np.floating) and not math.isfinite(v) for v in output):
            self._fail(work, key, MediaError("nonfinite", f"{output}"))
        else:
            self._journal(work).scored(key, [tables.cell(value) for value in output])


def _in_parts(
    function: Callable[[Sequence[Any]], Sequence[Any]], items: Sequence[Any], owner: Work | Embedding
) -> list[Any]:
    """One output of `function` per item, or a MediaError: in smaller parts where the device's memory
    does not do for all, and from then on; each alone where it raises."""
    if owner.most and len(items) > owner.most:
        parts = [items[i : i + owner.most] for i in range(0, len(items), owner.most)]
        return [output for part in parts for output in _in_parts(function, part, owner)]
    failure = MediaError("model_error", "another number of results than of samples")
    try:
        outputs = list(function(items))
        if len(outputs) == len(items):
            return outputs
    except ClipsheetError:  # speaks of the run, not of these items
        raise
    except Exception as error:
        failure = failure_of(error)
    if len(items) == 1:
        return [failure]
    if failure.code in ("gpu_oom", "out_of_memory"):
        launch.free_memory()
        owner.most = len(items) // 2
        log.warning("out of memory with %d at once; going on with %d", len(items), owner.most)
        return _in_parts(function, items, owner)
    return [output for item in items for output in _in_parts(function, [item], owner)]
