"""python -m scoring.matching.inference META [--option WORD ...] [flags]"""

from clipsheet.cli import describe, run_main, scorer_parser
from clipsheet.engine.run import run_scorers
from clipsheet.options import RunOptions
from clipsheet.scorer import Scorer
from scoring.matching.scorer import Matching, OptionMatching


def main() -> None:
    """The program: captions, or with `--option` the words given."""
    parser = scorer_parser(Matching, describe(Matching))
    parser.add_fields(OptionMatching, "words in place of captions", without=("num_frames", "clip", "dtype"))
    given = parser.parse_args()
    if given.option and given.sentences:
        parser.error("--sentences is about captions, not about --option")
    scorer: type[Scorer] = OptionMatching if given.option else Matching
    run_main(lambda: run_scorers(given.meta, [parser.take(scorer, given)], parser.take(RunOptions, given)))


if __name__ == "__main__":
    main()
