"""Who reads blocks of batches ahead: Grain (pip install grain), or the thread of `srpo.training.feed`.

The rows of the blocks are the same, drawn from the stage's key, and so is the gathering; what differs is who hands the
next block over. A consumer that takes no time shows what a block costs, one that takes longer how much of it is hidden.

  python benchmarks/reading_ahead.py --blocks 40
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import jax

import srpo
from srpo.data.treated import treat
from srpo.training import feed as feeds


def by_feed(feed: feeds.HostFeed, blocks: int, length: int) -> Iterator[object]:
    for number in range(blocks):
        yield feed.at(number * length)[0]


def by_grain(feed: feeds.HostFeed, blocks: int) -> Iterator[object]:
    import grain

    reading = grain.ReadOptions(num_threads=1, prefetch_buffer_size=feeds.AHEAD)
    return iter(grain.MapDataset.range(blocks).map(feed.block).to_iter_dataset(reading))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=40)
    args = parser.parse_args()
    begin = time.perf_counter()
    import grain  # noqa: F401

    print(f"importing grain takes {time.perf_counter() - begin:.2f} s")
    data = srpo.load_dataset("halfcheetah-medium-replay-mini")
    stage = srpo.configure("srpo", data).stages["critic"]
    view, keys = treat(data, on_device=False).transitions, jax.random.split(jax.random.key(0), 1)
    length = feeds.HOST_STEPS
    for pause in (0.0, 0.1):
        for turn in range(3):
            took = {}
            for name in ("feed", "grain"):
                feed = feeds.HostFeed(stage, view, keys, length)
                feed.block(0)  # compiles
                blocks = by_feed(feed, args.blocks, length) if name == "feed" else by_grain(feed, args.blocks)
                begin = time.perf_counter()
                for block in blocks:
                    jax.block_until_ready(block)
                    time.sleep(pause)
                took[name] = (time.perf_counter() - begin) / args.blocks - pause
                feed.close()
            print(
                f"turn {turn}, consumer of {pause} s: " + ", ".join(f"{n} {1e3 * t:.1f} ms per block" for n, t in took.items())
            )


if __name__ == "__main__":
    main()
