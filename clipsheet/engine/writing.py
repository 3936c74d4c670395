"""What a worker does that writes one file after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipsheet.engine.pool import failure_of
from clipsheet.errors import MediaError
from clipsheet.target import Allow, Target, Written, aside, give_name


@dataclass(frozen=True)
class WriteEach:
    """A Maker out of a function that writes one file.

    Attributes:
        write: (path of the source, target, where to write, allow); may raise MediaError or OSError.
    """

    write: Callable[[str, Any, Path, Allow], None]

    def __call__(self, task: tuple[str, Sequence[Any]], allow: Allow) -> list[Any]:
        path, targets = task
        return [self._one(path, target, allow) for target in targets]

    def _one(self, path: str, target: Target, allow: Allow) -> Written | MediaError | OSError:
        place = Path(target.target)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with aside(place) as partial:
                self.write(path, target, partial, allow)
                return give_name(partial, place)
        except OSError as error:
            return error
        except Exception as error:
            return failure_of(error)
