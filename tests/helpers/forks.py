"""Runs forked from a process that has imported everything: cheap enough to kill them often."""

import importlib
import multiprocessing
import os
import time

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["hsproto.train", "matplotlib.pyplot"])


def start(arguments, environment, log, module="hsproto.train"):
    """`hsproto train ARGUMENTS...`, or another module's main, as a multiprocessing.Process."""
    process = _context.Process(target=_run, args=(arguments, dict(environment), log, module))
    process.start()
    return process


def wait_for(process, condition, seconds=120):
    """Returns when the condition holds; a process that ended before it is an error."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "nothing happened in time"
        assert process.exitcode is None, f"ended with status {process.exitcode}"
        time.sleep(0.002)


def _run(arguments, environment, log, module):
    # JAX read its environment when it was imported; no device has been touched since.
    import jax

    from hsproto import cli

    jax.config.update("jax_num_cpu_devices", int(environment["JAX_NUM_CPU_DEVICES"]))
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        cli.run(importlib.import_module(module).main, arguments)
    finally:
        # A forked process ends without the exit handlers of the interpreter.
        jax.distributed.shutdown()
