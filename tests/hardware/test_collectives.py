"""What chips exchange is read from the text of compiled programs, as three compilers write it."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from hsproto.hardware import collectives, hlo, products
from hsproto.hardware.collectives import BATCH_NORM, GRADIENTS, LOSS

TPU = """HloModule jit_step, is_scheduled=true

%region_4.5 (a: f32[], b: f32[]) -> f32[] {
  ROOT %add = f32[] add(%a, %b)
}

ENTRY %main.1_spmd (param: f32[64,512]) -> f32[] {
  %param = f32[64,512]{1,0:T(8,128)} parameter(0)
  %all-reduce.159 = (f32[64]{0:T(128)S(1)}, f32[64]{0:T(128)S(1)}) all-reduce(%g.46, %g.45), \
channel_id=3, \
to_apply=%region_4.5, \
metadata={op_name="jit(step)/jvp(Model)/backbone/bn1/reduce_sum" stack_frame_id=45}
  %pmax.6 = f32[1,10]{1,0:T(1,128)} all-reduce(%bitcast.145), \
channel_id=1, \
to_apply=%region_4.5, \
metadata={op_name="jit(step)/jvp()/shard_map/pmax" stack_frame_id=472}
  ROOT %all-reduce.124 = (f32[64]{0:T(128)}, /*index=1*/f32[3,3,64,64]{3,2,1,0:T(8,128)S(1)}) \
all-reduce(%g.36, %fusion), channel_id=80, \
to_apply=%region_4.5, \
metadata={op_name="jit(step)/transpose(jvp(Model))/backbone/bn1/reduce_sum" stack_frame_id=113}
}
"""
GPU = """HloModule jit_step, is_scheduled=true

ENTRY %main.198_spmd (param.21: f32[64]) -> f32[] {
  %fusion.3 = (f32[64]{0}, f32[64]{0}) fusion(%param.21), kind=kInput, calls=%f, \
metadata={op_name="jit(step)/jvp(Model)/backbone/layer1_0/bn1/reduce_sum"}
  %get-tuple-element.1 = f32[64]{0} get-tuple-element(%fusion.3), index=0
  %wrapped_concatenate = f32[128]{0} fusion(%get-tuple-element.1), kind=kLoop, calls=%g
  %all-reduce-start.4 = f32[128]{0} all-reduce-start(%wrapped_concatenate), \
channel_id=3, \
to_apply=%r, \
metadata={scheduling_name="all-reduce-start.4"}
  %all-reduce-done.4 = f32[128]{0} all-reduce-done(%all-reduce-start.4)
  %all-reduce-start.5 = f32[51300]{0} all-reduce-start(%p.5), \
metadata={op_name="jit(step)/jvp()/shard_map/psum_invariant"}
  %all-gather-start.1 = (f32[8,16]{1,0}, f32[64,16]{1,0}) all-gather-start(%p), dimensions={0}, \
metadata={op_name="jit(step)/jvp()/shard_map/all_gather"}
}
"""
LOOP = """HloModule jit_step

%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %all-reduce.1 = f32[4]{0} all-reduce(%x), \
to_apply=%r, \
metadata={op_name="jit(step)/shard_map/psum"}
}

%condition (p: (s32[], f32[4])) -> pred[] {
  %constant.7 = s32[] constant(5)
  ROOT %compare = pred[] compare(%i, %constant.7), direction=LT
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %while.1 = (s32[], f32[4]{0}) while(%tuple), condition=%condition, body=%body
}
"""


SCATTERED = """HloModule jit_step

ENTRY %main (p: f32[16,32]) -> f32[16,32] {
  %all-gather-start = ((pred[16]{0}, f32[16,32]{1,0}), (pred[128]{0}, f32[128,32]{1,0})) \
all-gather-start(%a, %b), dimensions={0}, \
metadata={op_name="jit(step)/jvp()/shard_map/all_gather"}
  %reduce-scatter-start = ((f32[128,32]{1,0}), f32[16,32]{1,0}) reduce-scatter-start(%c), \
to_apply=%r, \
metadata={op_name="jit(step)/transpose(jvp())/shard_map/reduce_scatter"}
  %slice = f32[16,32]{1,0} fusion(%e), metadata={op_name="jit(step)/jvp()/shard_map/div"}
  %update = f32[128,32]{1,0} dynamic-update-slice(%zeros, %slice, %first, %zero)
  %all-reduce.1 = f32[128,32]{1,0} all-reduce(%update), to_apply=%r
}
"""


def test_what_scl_gathers_and_scatters_is_the_losss_however_it_is_done():
    found = collectives.read(SCATTERED, 8, parameters=[(32, 16), (3, 3, 1, 32)])
    assert [(c.kind, c.part, c.size) for c in found] == [
        ("all-gather", LOSS, 128 * (1 + 32 * 4)),
        ("reduce-scatter", LOSS, 128 * 32 * 4),
        ("all-reduce", LOSS, 128 * 32 * 4),
    ]


def test_joined_sums_of_a_tpu_are_known_by_the_shapes_of_parameters():
    found = collectives.read(TPU, 8, parameters=[(3, 3, 64, 64), (64,)])
    assert [(c.part, c.size) for c in found] == [
        (BATCH_NORM, 512),
        (LOSS, 40),
        (GRADIENTS, 4 * (64 + 3 * 3 * 64 * 64)),
    ]


def test_joined_sums_of_a_gpu_are_known_by_what_they_are_computed_from():
    found = collectives.read(GPU, 8, parameters=[(100, 512)])
    assert [(c.kind, c.part, c.size) for c in found] == [
        ("all-reduce", BATCH_NORM, 512),
        ("all-reduce", GRADIENTS, 4 * 51300),  # of prototypes, with sums per class
        ("all-gather", LOSS, 4096),
    ]


def test_what_stands_in_a_loop_counts_as_often_as_it_runs():
    (found,) = collectives.read(LOOP, 8)
    assert found.times == 5
    assert found.sent(8) == 5 * 16 * 2 * 7 / 8
    assert collectives.table([found], 8)[0]["count"] == 5


@pytest.fixture(scope="module")
def step():
    """A loss in a shard_map on products and a convolution outside it, traced and compiled."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def loss(x, w):
        return jax.lax.psum(jnp.sum(jnp.dot(x, w, precision="highest") ** 2), "data")

    loss = jax.shard_map(loss, mesh=mesh, in_specs=(P("data"), P()), out_specs=P())

    def step(images, kernel, w):
        maps = jax.lax.conv_general_dilated(
            images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return loss(maps.mean((1, 2)), w)

    split = jax.NamedSharding(mesh, P("data"))
    shapes = ((64, 8, 8, 3), (3, 3, 3, 16), (16, 5))
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(step, in_shardings=(split, None, None)).trace(*arguments)


def test_flops_are_those_of_one_chip_by_precision(step):
    flops, of_the_loss = products.of_chip(step.jaxpr.jaxpr, 8)
    assert flops == {
        products.DEFAULT: 2 * 8 * 8 * 8 * 16 * 3 * 3 * 3,
        products.HIGHEST: 2 * 8 * 16 * 5,
    }
    assert of_the_loss == flops[products.HIGHEST]


def test_flops_in_a_loop_count_as_often_as_it_runs():
    def many(x):
        return jax.lax.scan(lambda x, _: (x @ x, None), x, None, length=7)[0]

    traced = jax.jit(many).trace(jnp.zeros((4, 4), jnp.bfloat16))
    assert products.of_chip(traced.jaxpr.jaxpr, 1) == ({products.BFLOAT16: 7 * 2 * 4**3}, 0.0)


def test_the_programs_of_this_compiler_are_read_too(step):
    text = step.lower().compile().as_text()
    assert [(c.part, c.size) for c in collectives.read(text, 8)] == [(LOSS, 4)]
    assert hlo.traffic(text) >= 4 * 8 * 8 * 8 * 3


def test_every_kind_has_the_bytes_of_the_whole_array_and_what_a_chip_sends():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows, whole = P("data"), P()

    def exchange(x):  # [3, 5] a device
        def turn(carry, _):
            return jax.lax.ppermute(carry, "data", [(i, (i + 1) % 8) for i in range(8)]), None

        passed = jax.lax.scan(turn, x, None, length=7)[0]
        gathered = jax.lax.all_gather(x, "data", tiled=True)
        shares = jax.lax.psum_scatter(jnp.sin(gathered), "data", tiled=True)
        return jax.lax.psum(jnp.sum(passed * shares, axis=0), "data")

    shape = jax.ShapeDtypeStruct((24, 5), jnp.float32)
    mapped = jax.shard_map(exchange, mesh=mesh, in_specs=rows, out_specs=whole)
    found = collectives.read(jax.jit(mapped).lower(shape).compile().as_text(), 8)
    assert {(c.kind, c.size, c.times) for c in found} == {
        ("collective-permute", 3 * 5 * 4, 7),
        ("all-gather", 24 * 5 * 4, 1),
        ("reduce-scatter", 24 * 5 * 4, 1),
        ("all-reduce", 5 * 4, 1),
    }
    sent = {c.kind: c.sent(8) for c in found}
    assert sent["collective-permute"] == 7 * 60
    assert sent["all-gather"] == sent["reduce-scatter"] == 7 / 8 * 480
    assert sent["all-reduce"] == 2 * 7 / 8 * 20
