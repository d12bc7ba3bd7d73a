"""The texts that the processes of a run share: the key-value store of JAX's distributed service.

It lives in process 0 and works without collectives, so that also processes which disagree, or whose
main thread waits for one that is lost, can speak to each other.
"""

from typing import Protocol

import jax
from jax._src import distributed

_FOREVER_MS = 10_000  # of one try, after which it is repeated


class Store(Protocol):
    """A store of texts. What is read may be missing: None."""

    def put(self, key: str, text: str) -> None:
        """Store a text, in place of an earlier one."""

    def put_first(self, key: str, text: str) -> bool:
        """Store a text unless there is one; return whether it was stored."""

    def get(self, key: str) -> str | None:
        """Return a text, or None if there is none."""

    def wait(self, key: str) -> str:
        """Return a text, as soon as there is one."""

    def all(self, folder: str) -> dict[str, str]:
        """Return the texts of the keys that begin with FOLDER/, by the rest of the key."""


class JaxStore:
    """The store of this run, after `jax.distributed.initialize`.

    Attributes:
        index: The number of this process.
        count: The number of processes.
    """

    def __init__(self):
        # There is no public way to it. Orbax uses this one too.
        state = distributed.global_state
        self.index, self.count = state.process_id, state.num_processes
        self._client = state.client

    def put(self, key, text):
        self._client.key_value_set(f"hsproto/{key}", text, allow_overwrite=True)

    def put_first(self, key, text):
        try:
            self._client.key_value_set(f"hsproto/{key}", text)
        except jax.errors.JaxRuntimeError as error:
            if "ALREADY_EXISTS" not in str(error):
                raise
            return False
        return True

    def get(self, key):
        try:
            return self._client.key_value_try_get(f"hsproto/{key}")
        except jax.errors.JaxRuntimeError as error:
            if "NOT_FOUND" not in str(error):
                raise
            return None

    def wait(self, key):
        while True:
            try:
                return self._client.blocking_key_value_get(f"hsproto/{key}", _FOREVER_MS)
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise

    def all(self, folder):
        found = self._client.key_value_dir_get(f"hsproto/{folder}/")
        return {key.rpartition("/")[2]: text for key, text in found}
