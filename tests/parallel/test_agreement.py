"""Processes that differ all say the same: what differs, where, and both values."""

import functools

import pytest
from memory_store import MemoryStore, in_threads
from small_runs import tiny_config

from hsproto.parallel import agreement
from hsproto.runs import summary


def compare(*items):
    store = MemoryStore()
    calls = [
        functools.partial(agreement.compare, store, index, len(items), mine)
        for index, mine in enumerate(items)
    ]
    return in_threads(*calls)


def everything(**changes):
    config = tiny_config().to_dict() | changes
    code = agreement.code_digests()
    return {"config": config, "versions": summary.versions(), "code": code}


def test_processes_that_agree_go_on():
    assert compare(everything(), everything(), everything()) == [None] * 3


@pytest.mark.parametrize(
    ("key", "value"),
    [("seed", 1), ("loss", "ntce"), ("base_lr", 0.123), ("width", 13), ("batch_size", 128)],
)
def test_what_differs_is_named_with_both_values(key, value):
    said = compare(everything(), everything(), everything(**{key: value}))
    assert len(set(said)) == 1
    ours = tiny_config()[key]
    assert f"config.{key} is {ours} in process 0, {value} in process 2" in said[0]
    assert "start all of them with the same command" in said[0]


def test_other_versions_code_and_data_are_named():
    mine, other = everything(), everything()
    other["versions"] = other["versions"] | {"jax": "0.0.1"}
    other["code"] = other["code"] | {"losses.py": "other"}
    (text, _) = compare(mine, other)
    assert f"versions.jax is {mine['versions']['jax']} in process 0, 0.0.1 in process 1" in text
    assert f"code.losses.py is {mine['code']['losses.py']} in process 0, other" in text
    (text, _) = compare({"data": {"classes": ["a"], "n": 3}}, {"data": {"n": 3}})
    assert 'data.classes is ["a"] in process 0, none in process 1' in text


def test_the_message_stays_short():
    (text, _) = compare(*({f"k{i}": letter * 10_000 for i in range(9)} for letter in "ab"))
    assert "and 6 more" in text and len(text) < 800 and "\n" not in text


def test_long_values_are_shown_where_they_differ():
    names = [f"class {i}" for i in range(1000)]
    (text, _) = compare({"names": names}, {"names": [*names[:500], "other", *names[501:]]})
    assert '"class 500"' in text and '"other"' in text and len(text) < 400


def test_the_code_is_all_of_hsproto():
    digests = agreement.code_digests()
    assert {"losses.py", "train.py", "parallel/agreement.py"} <= set(digests)
