"""`python -m benchmarks COMMAND`: see README.md beside this file."""

from __future__ import annotations

import argparse
import sys

from benchmarks import (
    blocks,
    border,
    fill_in,
    gate,
    partiality,
    powder,
    powder_success,
    scale_out,
    scaling,
    sigmas,
)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(required=True)
    for module in (
        scaling,
        sigmas,
        fill_in,
        gate,
        blocks,
        border,
        scale_out,
        powder,
        powder_success,
        partiality,
    ):
        module.add_arguments(commands)
    options = parser.parse_args(arguments)
    return int(options.run(options))


if __name__ == "__main__":
    sys.exit(main())
