"""What an answer must be to be a caption: without thoughts, not empty, and without an end that repeats itself."""

from __future__ import annotations

import re

from captioning.models.language_model import Answer
from clipsheet.errors import MediaError

#: Letters of a phrase, and how often the end of an answer repeats it in a repetition loop.
LOOPS = ((1, 1, 30), (2, 3, 16), (4, 9, 8), (10, 39, 5), (40, 300, 3))
#: Found in a text that is read from its end.
_LOOP = re.compile(
    "|".join(
        rf".{{0,40}}?(.{{{least},{most}}}?)\{k}{{{times - 1}}}"
        for k, (least, most, times) in enumerate(LOOPS, 1)
    ),
    re.DOTALL,
)
_THOUGHTS = re.compile(r"^.*?</think>", re.DOTALL)
ECHOED_WORDS = 4  # of a question that a model may repeat; fewer may be the begin of an answer


def judged(answer: Answer | MediaError, question: str = "") -> Answer | MediaError:
    """An answer as a caption: without thoughts and the question itself; bad_output where nothing of use is left."""
    if isinstance(answer, MediaError):
        return answer
    text = _THOUGHTS.sub("", answer.text).replace("\0", "").strip()
    text = text.encode("utf-8", "replace").decode()  # halves of a character are none
    if len(question.split()) >= ECHOED_WORDS:
        text = text.removeprefix(question.strip()).strip()
    if text.startswith("<think>"):
        return MediaError("bad_output", "the model was still thinking at max_new_tokens")
    if not any(map(str.isalnum, text)):
        return MediaError("bad_output", f"the model said nothing: {text}")
    if found := _LOOP.match(text[::-1]):
        phrase = next(filter(None, found.groups()))[::-1]
        return MediaError("bad_output", f"the model repeats itself: {phrase.strip()}")
    return Answer(text, answer.truncated)
