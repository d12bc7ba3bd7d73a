"""A compiled training step in a file, so that the machine it was made for starts without compiling.

The file is a pickle, as JAX's own serialization is: read one only from where you trust its writer.
"""

import pickle
from typing import Any

from jax.experimental import serialize_executable

from hsproto.runs import files


def write(path: str, executable: Any, result: dict[str, Any]) -> None:
    """Write a compiled step with what it was compiled for: config, hardware and versions."""
    payload, in_tree, out_tree = serialize_executable.serialize(executable)
    made_for = {key: result[key] for key in ("topology", "config", "versions")}
    content = pickle.dumps(made_for | {"executable": (payload, in_tree, out_tree)})

    def put(temporary):
        with open(temporary, "wb") as file:
            file.write(content)

    files.write_atomically(path, put)
