"""The anchor for ResNet-50's step: what Flax's ImageNet example does, written anew for compiling.

A Linen ResNet-50 with a softmax classifier: NHWC, bfloat16 layers on float32 parameters, BatchNorm
over the whole batch, the last one of a block starting at zero; SGD with Nesterov's momentum and L2
on the kernels; one `jit` over a mesh along the batch, the state donated. As there, images arrive
cropped, normalized and in bfloat16. `benchmarks/hardware.py` builds it for hardware that is not
there.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from hsproto.hardware import programs
from hsproto.parallel import mesh as mesh_lib

CLASSES, SIDE = 1000, 224
BLOCKS = 3, 4, 6, 3


class ResNet50(nn.Module):
    dtype: jnp.dtype = jnp.bfloat16
    train: bool = True

    @nn.compact
    def __call__(self, x):
        x = self.conv(64, 7, 2, "conv1", padding=[(3, 3), (3, 3)])(x)
        x = nn.relu(self.norm("norm1")(x))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        for stage, blocks in enumerate(BLOCKS):
            for number in range(blocks):
                stride = 2 if stage and not number else 1
                x = self.block(x, 64 * 2**stage, stride, f"stage{stage}_{number}")
        x = x.mean(axis=(1, 2))
        return nn.Dense(CLASSES, dtype=self.dtype, name="head")(x).astype(jnp.float32)

    def block(self, x, filters, stride, name):
        y = self.conv(filters, 1, 1, f"{name}_conv1")(x)
        y = nn.relu(self.norm(f"{name}_norm1")(y))
        y = self.conv(filters, 3, stride, f"{name}_conv2")(y)
        y = nn.relu(self.norm(f"{name}_norm2")(y))
        y = self.conv(4 * filters, 1, 1, f"{name}_conv3")(y)
        y = self.norm(f"{name}_norm3", nn.initializers.zeros)(y)
        if x.shape != y.shape:
            x = self.conv(4 * filters, 1, stride, f"{name}_conv_skip")(x)
            x = self.norm(f"{name}_norm_skip")(x)
        return nn.relu(x + y)

    def conv(self, filters, side, stride, name, padding="SAME"):
        return nn.Conv(
            filters, (side, side), (stride, stride), padding, use_bias=False, dtype=self.dtype,
            name=name,
        )  # fmt: skip

    def norm(self, name, scale_init=nn.initializers.ones):
        return nn.BatchNorm(
            use_running_average=not self.train, momentum=0.9, epsilon=1e-5, dtype=self.dtype,
            scale_init=scale_init, name=name,
        )  # fmt: skip


def step(model, optimizer, state, batch):
    """One step of (parameters, BatchNorm's statistics, optimizer's state)."""
    params, statistics, moments = state

    def loss(params):
        variables = {"params": params, "batch_stats": statistics}
        logits, changed = model.apply(variables, batch["image"], mutable=["batch_stats"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        decayed = (jnp.sum(p**2) for p in jax.tree.leaves(params) if p.ndim > 1)
        return losses.mean() + 0.5e-4 * sum(decayed), (changed["batch_stats"], logits)

    (value, (statistics, logits)), slopes = jax.value_and_grad(loss, has_aux=True)(params)
    updates, moments = optimizer.update(slopes, moments, params)
    metrics = {"loss": value, "accuracy": jnp.mean(logits.argmax(-1) == batch["label"])}
    return (optax.apply_updates(params, updates), statistics, moments), metrics


def compiled(topology, devices, batch_size, dtype=jnp.bfloat16):
    """The step's `programs.Program` on devices to compile for."""
    mesh = mesh_lib.make_mesh(devices)
    split, whole = mesh_lib.over_batch(mesh), mesh_lib.replicated(mesh)
    model, optimizer = ResNet50(dtype), optax.sgd(0.1, momentum=0.9, nesterov=True)
    images = jax.ShapeDtypeStruct((batch_size, SIDE, SIDE, 3), dtype, sharding=split)
    labels = jax.ShapeDtypeStruct((batch_size,), jnp.int32, sharding=split)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    moments = jax.eval_shape(optimizer.init, variables["params"])
    state = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole),
        (variables["params"], variables["batch_stats"], moments),
    )
    program = jax.jit(
        functools.partial(step, model, optimizer), donate_argnums=0,
        in_shardings=(whole, split), out_shardings=(whole, whole),
    )  # fmt: skip
    traced = program.trace(state, {"image": images, "label": labels})
    return programs.compiled(traced, topology, [x.shape for x in jax.tree.leaves(state[0])])
