"""`python -m tests.chaos`: run the suite over each store, print what was found, and fail if it is anything."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys

from tests.chaos.stores import STORES
from tests.chaos.suite import Plan, run, told


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="replays a schedule and the clients' scripts; drawn if left out")
    parser.add_argument("--seconds", type=float, default=90.0, help="how long there are disturbances, for each store")
    parser.add_argument("--store", choices=sorted(STORES), help="one store; all of them if left out")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--processes", type=int, default=3)
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.randrange(1_000_000)
    passed = True
    for store in [arguments.store] if arguments.store else sorted(STORES):
        plan = Plan(store, seed, arguments.seconds, arguments.clients, arguments.processes)
        result = asyncio.run(run(plan, lambda line: print(line, flush=True)))
        print(told(result), flush=True)
        passed = passed and result.passed
    print(f"{'passed' if passed else 'FAILED'}; again with --seed {seed}", flush=True)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
