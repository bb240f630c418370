"""`python -m tests.model`: the model with larger bounds than the tests have time for."""

import argparse
import sys

from tests.model.explore import Search
from tests.model.shards.state import Model as ShardsModel
from tests.model.shards.state import Rules as ShardsRules
from tests.model.state import Model, Rules


def main() -> int:
    """Search, and print what was found; 1 where a promise is broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--events", default="FS", help="F or S each, in the order of the device's clock")
    parser.add_argument("--threshold", type=int, default=1, help="failures in a row that are an alert")
    parser.add_argument("--to-a", default="1", help="the events that bridge A receives, such as 1,2")
    parser.add_argument("--to-b", default="2", help="those that bridge B receives")
    parser.add_argument("--crashes", type=int, default=1, help="how often a bridge is killed")
    parser.add_argument("--rollbacks", type=int, default=1, help="how often Redis is rolled back or emptied")
    parser.add_argument(
        "--cuts", type=int, default=0, help="how often a bridge loses its connection to Redis"
    )
    parser.add_argument("--waits", type=int, default=0, help="how often a few seconds pass")
    parser.add_argument("--stops", type=int, default=0, help="how often a bridge stops cleanly")
    parser.add_argument("--setbacks", type=int, default=0, help="how often the clock of A is set back")
    parser.add_argument("--in-flight", type=int, default=1, help="messages in a bridge's hands at once")
    parser.add_argument("--skew", type=int, default=0, help="how far the clock of B is ahead of A's")
    parser.add_argument(
        "--break", dest="broken", action="append", default=[], help="a rule of `Rules` that does not hold"
    )
    parser.add_argument(
        "--shards", metavar="01", help="two shards instead, and that of each event; --events is ignored then"
    )
    parser.add_argument(
        "--lost-answers", type=int, default=0, help="with --shards, how often an answer is lost"
    )
    parser.add_argument(
        "--expiries",
        type=int,
        default=0,
        help="with --shards, how often a lock expires while its bridge rebuilds",
    )
    parser.add_argument("--rebuilt", action="store_true", help="with --shards, after `pisync rebuild`")
    parser.add_argument("--rebuilding", action="store_true", help="with --shards, while one is taken over")
    options = parser.parse_args()
    known = (Rules if options.shards is None else ShardsRules).__annotations__
    if unknown := set(options.broken) - known.keys():
        parser.error(f"--break {min(unknown)}: there is no such rule; {', '.join(known)}")
    model = _of_one(options) if options.shards is None else _of_two(options)
    found = Search(model, _progress).run()
    sys.stderr.write("\n")
    sys.stdout.write(f"{found}\n")
    return 0 if found.broken is None else 1


def _of_one(options: argparse.Namespace) -> Model:
    return Model(
        history=options.events,
        deliveries=(_places(options.to_a), _places(options.to_b)),
        threshold=options.threshold,
        crashes=options.crashes,
        losses=options.rollbacks,
        cuts=options.cuts,
        waits=options.waits,
        stops=options.stops,
        setbacks=options.setbacks,
        in_flight=options.in_flight,
        skew=options.skew,
        rules=Rules(**dict.fromkeys(options.broken, False)),
    )


def _of_two(options: argparse.Namespace) -> ShardsModel:
    """One message for each bridge; B is left out with `--to-b ""`, unless it is about to rebuild."""
    batches = [(events,) if (events := _places(numbers)) else () for numbers in (options.to_a, options.to_b)]
    if not batches[1] and not options.rebuilding:
        del batches[1]
    return ShardsModel(
        places=tuple(map(int, options.shards)),
        deliveries=tuple(batches),
        crashes=options.crashes,
        losses=options.rollbacks,
        cuts=options.lost_answers,
        waits=options.waits,
        expiries=options.expiries,
        rebuilt=options.rebuilt,
        rebuilding=options.rebuilding,
        rules=ShardsRules(**dict.fromkeys(options.broken, False)),
    )


def _places(numbers: str) -> tuple[int, ...]:
    return tuple(int(number) - 1 for number in numbers.split(",") if number)


def _progress(visited: int, reached: int) -> None:
    sys.stderr.write(f"\r{visited:,} states visited, {reached - visited:,} waiting ")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
