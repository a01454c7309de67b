"""`python -m tests.chaos`: run the suite on each store, print the verdict, and exit with 1 if anything went wrong."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys

from tests.chaos.stores import STORES
from tests.chaos.suite import Plan, format_result, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="seed of the schedule and the client scripts; random by default")
    parser.add_argument("--seconds", type=float, default=90.0, help="duration of the fault injection for each store")
    parser.add_argument("--store", choices=sorted(STORES), help="run on this store only; all stores by default")
    parser.add_argument("--clients", type=int, default=100, help="number of concurrent clients")
    parser.add_argument("--processes", type=int, default=3, help="number of server processes")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.randrange(1_000_000)
    passed = True
    for store in [arguments.store] if arguments.store else sorted(STORES):
        plan = Plan(store, seed, arguments.seconds, arguments.clients, arguments.processes)
        result = asyncio.run(run(plan, lambda line: print(line, flush=True)))
        print(format_result(result), flush=True)
        passed = passed and result.passed
    print(f"{'passed' if passed else 'FAILED'}; to run the same schedule again: --seed {seed}", flush=True)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
