"""What the losses cost: value and gradient against the textbook formulas, torch and bare products.

    python benchmarks/losses.py [--quick] [--only=ntce,nonl] [--class_block=N] [--out=losses.json]

- textbook: the formula as printed, in plain JAX. For NTCE and NONL the [B, B] matrix of S_{j,y_i},
  for SCL the [2B, 2B] matrix with its masks, for the others a softmax over [B, K].
- torch: the same formulas in plain torch, eager. pml: pytorch-metric-learning's NormFace
  (`NormalizedSoftmaxLoss`) and `SupConLoss`. Both are left out where they are not installed.
- products: the matrix products that no exact formulation can do without, S = U Wᵀ and its two
  gradients (for SCL A Aᵀ and its two).
- blocks: with --class_block, in place of all these: the losses that have it in blocks of at most
  that many classes, at shapes of many classes.

All functions of one shape take turns, so a ratio is the median over rounds of the ratio of two
times taken within a second or so of each other: a busy machine slows both. Under `taskset -c 0`
times are CPU seconds of one core.
"""

import argparse
import functools
import os
import statistics
import sys

# torch's waiting threads would otherwise keep a core from whatever is timed next.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import jax
import jax.numpy as jnp
import measuring
import numpy as np

from hsproto import losses

try:
    import torch
    from torch.nn import functional as F
except ImportError:
    torch = None
try:
    from pytorch_metric_learning.losses import NormalizedSoftmaxLoss, SupConLoss
except ImportError:
    NormalizedSoftmaxLoss = None

TEMPERATURE = 0.1
SHAPES = ((512, 10, 512), (512, 100, 512), (8192, 100, 512), (4096, 1000, 2048))
MANY = ((1024, 20_000, 512), (4096, 2000, 512))  # with --class_block
VIEWS = (1024, 4096, 8192)  # 2B of SCL
VIEW_DIMS, VIEW_CLASSES = 128, 100
PROTOTYPE_LOSSES = (
    "cross_entropy",
    "normface",
    "decoupled_normface",
    "ntce",
    "nonl",
    "dot_regression",
)
BATCH_LOSSES = ("scl", "prototype_softmax")
COLUMNS = ("textbook", "torch", "pml", "blocks")


def ours(name, **options):
    """f(features, prototypes, labels) -> mean loss; features alone matter where no prototypes."""
    loss = functools.partial(getattr(losses, name), **options)
    if name in ("cross_entropy", "dot_regression"):
        return lambda z, w, y: loss(z, w, y).mean()
    if name == "scl":
        return lambda z, w, y: loss(z, y, temperature=TEMPERATURE).mean()
    if name == "prototype_softmax":
        return lambda z, w, y: loss(z, y, num_classes=VIEW_CLASSES, temperature=TEMPERATURE).mean()
    return lambda z, w, y: loss(z, w, y, temperature=TEMPERATURE).mean()


def textbook(name):
    """The same mean loss, as the equation is printed."""

    def unit(x):
        return x / jnp.linalg.norm(x, axis=1, keepdims=True)

    def own(logits, y):
        return jnp.take_along_axis(logits, y[:, None], axis=1)[:, 0]

    def lse(logits, axis):
        return jax.nn.logsumexp(logits, axis=axis)

    def cross_entropy(z, w, y):
        logits = z @ w.T
        return (lse(logits, 1) - own(logits, y)).mean()

    def normface(z, w, y):
        return cross_entropy(unit(z), unit(w) / TEMPERATURE, y)

    def decoupled_normface(z, w, y):
        logits = unit(z) @ unit(w).T / TEMPERATURE
        others = y[:, None] != jnp.arange(len(w))
        return (lse(jnp.where(others, logits, -jnp.inf), 1) - own(logits, y)).mean()

    def ntce(z, w, y):
        logits = unit(z) @ unit(w)[y].T / TEMPERATURE
        return (lse(logits, 0) - jnp.diagonal(logits)).mean()

    def nonl(z, w, y):
        logits = unit(z) @ unit(w)[y].T / TEMPERATURE
        others = y[:, None] != y[None, :]
        return (lse(jnp.where(others, logits, -jnp.inf), 0) - jnp.diagonal(logits)).mean()

    def dot_regression(z, w, y):
        m = w[y]
        return 0.5 * jnp.square((unit(z) * m).sum(1) - jnp.linalg.norm(m, axis=1)).mean()

    def scl(a, w, y):
        a = unit(a)
        logits = a @ a.T / TEMPERATURE
        others = ~jnp.eye(len(a), dtype=bool)
        positives = (y[:, None] == y[None, :]) & others
        log_prob = logits - lse(jnp.where(others, logits, -jnp.inf), 1)[:, None]
        return -(jnp.where(positives, log_prob, 0).sum(1) / positives.sum(1)).mean()

    def prototype_softmax(a, w, y):
        a = unit(a)
        members = jax.nn.one_hot(y, VIEW_CLASSES)
        counts = members.sum(0)
        logits = a @ (members.T @ a / counts[:, None]).T / TEMPERATURE
        total = (counts * jnp.exp(logits)).sum(1) - jnp.exp(own(logits, y))
        return (jnp.log(total) - own(logits, y)).mean()

    return locals()[name]


def in_torch(name):
    """`textbook` once more, in torch."""

    def cosines(z, w):
        return F.normalize(z) @ F.normalize(w).T / TEMPERATURE

    def cross_entropy(z, w, y):
        return F.cross_entropy(z @ w.T, y)

    def normface(z, w, y):
        return F.cross_entropy(cosines(z, w), y)

    def decoupled_normface(z, w, y):
        logits = cosines(z, w)
        own = F.one_hot(y, len(w)).bool()
        return (logits.masked_fill(own, -torch.inf).logsumexp(1) - logits[own]).mean()

    def ntce(z, w, y):
        logits = cosines(z, w[y])
        return (logits.logsumexp(0) - logits.diagonal()).mean()

    def nonl(z, w, y):
        logits = cosines(z, w[y])
        same = y[:, None] == y[None, :]
        return (logits.masked_fill(same, -torch.inf).logsumexp(0) - logits.diagonal()).mean()

    def dot_regression(z, w, y):
        m = w[y]
        return 0.5 * ((F.normalize(z) * m).sum(1) - m.norm(dim=1)).square().mean()

    def scl(a, w, y):
        logits = cosines(a, a)
        itself = torch.eye(len(a), dtype=torch.bool)
        positives = (y[:, None] == y[None, :]) & ~itself
        log_prob = logits - logits.masked_fill(itself, -torch.inf).logsumexp(1, keepdim=True)
        return -(log_prob.masked_fill(~positives, 0).sum(1) / positives.sum(1)).mean()

    def prototype_softmax(a, w, y):
        a = F.normalize(a)
        members = F.one_hot(y, VIEW_CLASSES).float()
        counts = members.sum(0)
        logits = a @ (members.T @ a / counts[:, None]).T / TEMPERATURE
        own = logits.gather(1, y[:, None])[:, 0]
        return (((counts * logits.exp()).sum(1) - own.exp()).log() - own).mean()

    return locals()[name]


def jax_call(mean, arguments, argnums):
    """A call of value and gradient that returns when the result is there, with its value."""
    step = jax.jit(jax.value_and_grad(mean, argnums=argnums))
    arguments = [jnp.asarray(a) for a in arguments]

    def call():
        return jax.block_until_ready(step(*arguments))[0]

    return call


def torch_call(mean, arguments, argnums):
    arguments = [torch.tensor(a) for a in arguments]
    arguments[2] = arguments[2].long()
    for i in argnums:
        arguments[i].requires_grad_()

    def call():
        for i in argnums:
            arguments[i].grad = None
        value = mean(*arguments)
        value.backward()
        return value.detach()

    return call


def pml_mean(name, prototypes):
    """pytorch-metric-learning's mean loss (z, w, y) -> scalar, or None where it has none."""
    if name == "scl":
        loss = SupConLoss(temperature=TEMPERATURE)
        return lambda z, w, y: loss(z, y)
    if name != "normface":
        return None
    loss = NormalizedSoftmaxLoss(*prototypes.shape, temperature=TEMPERATURE)
    del loss.W

    def mean(z, w, y):
        loss.W = w.T  # held [D, K]
        return loss(z, y)

    return mean


def products(arguments, argnums):
    """S = U Wᵀ, and from dS the gradients of U and W (SCL: of the two sides of A Aᵀ)."""
    u = arguments[0]
    w = arguments[1] if 1 in argnums else u

    @jax.jit
    def step(u, w, slope):
        return u @ w.T, slope @ w, slope.T @ u

    shape = (len(u), len(w))
    slope = jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)
    u, w = jnp.asarray(u), jnp.asarray(w)
    return lambda: jax.block_until_ready(step(u, w, slope))


def contestants(names, shape, class_block):
    """{(loss, variant): call} for all that runs on this shape, checked against each other."""
    rows, num_classes, dims = shape
    rng = np.random.default_rng(0)
    arguments = [
        rng.normal(size=(rows, dims)).astype(np.float32),
        rng.normal(size=(num_classes, dims)).astype(np.float32),
        (np.arange(rows) % num_classes).astype(np.int32),
    ]
    calls = {}
    for name in names:
        argnums = (0, 1) if name in PROTOTYPE_LOSSES else (0,)
        calls[name, "ours"] = jax_call(ours(name), arguments, argnums)
        if not class_block:
            calls[name, "textbook"] = jax_call(textbook(name), arguments, argnums)
        elif name in PROTOTYPE_LOSSES and name != "dot_regression":
            in_blocks = ours(name, class_block=class_block)
            calls[name, "blocks"] = jax_call(in_blocks, arguments, argnums)
        if torch and not class_block:
            calls[name, "torch"] = torch_call(in_torch(name), arguments, argnums)
            if NormalizedSoftmaxLoss and (mean := pml_mean(name, arguments[1])):
                calls[name, "pml"] = torch_call(mean, arguments, argnums)
        value = float(calls[name, "ours"]())
        for variant in COLUMNS:
            if (name, variant) in calls:
                other = float(calls[name, variant]())
                if not np.isclose(other, value, rtol=1e-3):
                    raise AssertionError(f"{name} {shape}: {variant} {other}, ours {value}")
        if name != "prototype_softmax":
            calls.setdefault(("products", "ours"), products(arguments, argnums))
    return calls


def ratio(times, over, under):
    """Median and quartiles of over/under, round by round."""
    if over not in times or under not in times:
        return None
    found = [a / b for a, b in zip(times[over], times[under], strict=False)]
    low, middle, high = statistics.quantiles(found, n=4, method="inclusive")
    return {"median": middle, "quartiles": [low, high]}


def rows_of(times, names, shape):
    for name in names:
        mine = (name, "ours")
        low, middle, high = statistics.quantiles(times[mine], n=4, method="inclusive")
        row = {
            "loss": name,
            "shape": list(shape),
            "milliseconds": {"median": 1e3 * middle, "quartiles": [1e3 * low, 1e3 * high]},
        }
        for variant in COLUMNS:
            row[f"{variant}/ours"] = ratio(times, (name, variant), mine)
        same_products = name in PROTOTYPE_LOSSES
        row["ours/normface"] = ratio(times, mine, ("normface", "ours")) if same_products else None
        has_products = same_products or name == "scl"
        row["ours/products"] = ratio(times, mine, ("products", "ours")) if has_products else None
        yield row


def show(rows):
    def cell(found, digits):
        if found is None:
            return "-"
        low, high = found["quartiles"]
        return f"{found['median']:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"

    kinds = [f"{variant}/ours" for variant in COLUMNS] + ["ours/normface", "ours/products"]
    heads = ["loss", "B, K, D", "ms (quartiles)", *kinds]
    table = [heads] + [
        [
            row["loss"],
            ", ".join(map(str, row["shape"])),
            cell(row["milliseconds"], 2),
            *(cell(row[kind], 2) for kind in kinds),
        ]
        for row in rows
    ]
    widths = [max(len(line[i]) for line in table) for i in range(len(heads))]
    for line in table:
        print("| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="losses, separated by commas")
    parser.add_argument("--quick", action="store_true", help="small shapes, few rounds")
    parser.add_argument("--class_block", type=int, default=0, help="0: not in blocks")
    parser.add_argument("--rounds", type=int, default=0, help="0: 15, or 5 with --quick")
    parser.add_argument("--out", help="JSON file to write")
    options = parser.parse_args()
    known = PROTOTYPE_LOSSES + BATCH_LOSSES
    only = options.only.split(",") if options.only else known
    if unknown := set(only) - set(known):
        parser.error(f"--only: {', '.join(sorted(unknown))}; known are {', '.join(known)}")
    rounds = max(2, options.rounds or (5 if options.quick else 15))

    # NormFace always runs: the others are measured against it.
    prototype_losses = [n for n in PROTOTYPE_LOSSES if n in only or n == "normface"]
    batch_losses = [n for n in BATCH_LOSSES if n in only]
    plan = []
    if set(only) & set(PROTOTYPE_LOSSES):
        shapes = MANY if options.class_block else SHAPES[:2] if options.quick else SHAPES
        plan += [(prototype_losses, s) for s in shapes]
    if batch_losses:
        views = VIEWS[:1] if options.quick else VIEWS
        plan += [(batch_losses, (rows, VIEW_CLASSES, VIEW_DIMS)) for rows in views]

    report = {
        **measuring.environment("torch", "pytorch-metric-learning"),
        "temperature": TEMPERATURE,
        "rounds": rounds,
        "rows": [],
    }
    for names, shape in plan:
        times = measuring.in_turns(
            contestants(names, shape, options.class_block), rounds, slow_rounds=5
        )
        report["rows"] += rows_of(times, names, shape)
        print(f"measured {shape}, {len(names)} losses", file=sys.stderr, flush=True)
    show(report["rows"])
    print({k: report[k] for k in ("command", "machine", "versions", "rounds")})
    measuring.write(options.out, report)


if __name__ == "__main__":
    main()
