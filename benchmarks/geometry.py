"""Time of `geometry.neural_collapse` against the textbook way, in one run.

python benchmarks/geometry.py [--rows=50000 --classes=100 --dim=512] [--out=geometry.json]

The textbook way is what released code does: the effective rank of each class from the SVD of its
[D, D] covariance, in float32; without singular vectors, and with them, as a plain call of `svd`
computes them. It is timed on `--sample` classes and scaled to all of them, which is said.
"""

import argparse
import importlib.metadata
import json
import time

import jax
import jax.numpy as jnp
import measuring
import numpy as np

from hsproto import geometry


def textbook_class_rank(features, labels, label, vectors):
    rows = features[labels == label]
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    covariance = np.cov(rows.T, bias=True, dtype=np.float32)
    found = np.linalg.svd(covariance, compute_uv=vectors)
    values = found.S if vectors else found
    p = values / values.sum()
    return np.exp(-np.sum(p * np.log(np.maximum(p, 1e-30))))


def seconds(function):
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--sample", type=int, default=5, help="classes timed the textbook way")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    labels = np.arange(args.rows) % args.classes
    means = rng.normal(size=(args.classes, args.dim))
    noise = rng.normal(size=(args.rows, args.dim))
    features = (means[labels] + noise).astype(np.float32)
    prototypes = means.astype(np.float32)
    on_device = jax.block_until_ready(jnp.asarray(features))

    def ours():
        return jax.block_until_ready(
            geometry.neural_collapse(on_device, labels, prototypes, num_classes=args.classes)
        )

    first, measured = seconds(ours)
    warm = float(np.median([seconds(ours)[0] for _ in range(args.repeat)]))
    textbook = {}
    for vectors in (False, True):
        sampled, ranks = seconds(
            lambda vectors=vectors: [
                textbook_class_rank(features, labels, c, vectors) for c in range(args.sample)
            ]
        )
        textbook[vectors] = sampled / args.sample * args.classes
    result = {
        "shape": [args.rows, args.classes, args.dim],
        "seconds_first_call": first,
        "seconds_warm": warm,
        "seconds_textbook_intra_rank_alone_scaled": textbook[False],
        "seconds_textbook_with_vectors_scaled": textbook[True],
        "textbook_classes_timed": args.sample,
        "ratio": textbook[False] / warm,
        "ratio_with_vectors": textbook[True] / warm,
        "erank_intra": float(measured["erank_intra"]),
        "erank_intra_textbook_on_sample": float(np.mean(ranks)),
        "machine": measuring.machine(),
        "versions": {p: importlib.metadata.version(p) for p in ("jax", "jaxlib", "numpy")},
    }
    for key, value in result.items():
        print(f"{key:<44}{value}")
    if args.out:
        with open(args.out, "w") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
