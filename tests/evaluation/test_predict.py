"""`hsproto predict` names the classes of all images that it can read, and the others."""

import numpy as np
import pytest
from PIL import Image

from hsproto import predict


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for i, path in enumerate(paths):
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(pixels).save(path)
    return list(map(str, paths))


def predicted(run, files, capsys):
    status = predict.main([f"--workdir={run}", *files])
    printed = capsys.readouterr()
    return status, printed.out.splitlines(), printed.err.splitlines()


def test_batches_change_nothing_but_the_memory(digits_run, files, capsys, monkeypatch):
    status, lines, errors = predicted(digits_run, files, capsys)
    assert status == 0 and len(lines) == 5 and not errors
    monkeypatch.setattr(predict, "BATCH_SIZE", 2)
    assert predicted(digits_run, files, capsys) == (0, lines, [])


def test_what_cannot_be_read_is_named_and_passed_over(digits_run, files, tmp_path, capsys):
    (tmp_path / "text.png").write_text("no image")
    bad = [str(tmp_path / "text.png"), str(tmp_path / "missing.png")]
    _, lines, _ = predicted(digits_run, files[:3], capsys)
    status, found, errors = predicted(digits_run, [bad[0], *files[:2], bad[1], files[2]], capsys)
    assert status == 2 and found == lines
    assert errors[0].startswith(f"hsproto: unreadable image {bad[0]}")
    assert errors[1] == f"hsproto: no such file: {bad[1]}"
    assert errors[2] == "hsproto: 2 of 5 images could not be read"
    assert predicted(digits_run, bad, capsys)[:2] == (2, [])
