"""One process of several that take ten steps of every loss; process 0 writes what came out."""

import argparse
import sys

import jax
import numpy as np
from test_step import after_steps

from hsproto import methods
from hsproto.parallel import processes


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", required=True)
    processes.add_flags(parser)
    args = parser.parse_args()
    processes.join(args)
    found = {}
    for loss in methods.LOSSES:
        losses, state = after_steps(f"loss={loss}", jax.device_count(), steps=10)
        found[loss] = losses
        found |= {f"{loss}/{i}": leaf for i, leaf in enumerate(jax.tree.leaves(state))}
    if processes.is_main():
        np.savez(args.out, **found)


if __name__ == "__main__":
    sys.exit(main())
