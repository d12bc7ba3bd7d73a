"""All pictures of runs and features in one style, and nothing of them outside the picture."""

import numpy as np
import pytest

from hsproto.reporting.figures import features, runs, style

NAMES = [f"a very long name of a class, number {c} of them all" for c in range(12)]
MEANS = np.random.default_rng(0).normal(size=(12, 20))
RECORDS = [
    {"step": s, "loss": 1 / s, "train/nc1": 1 / s, "test/accuracy": 0.5, "train/accuracy": 0.5}
    for s in range(1, 40)
]


def figures():
    arrays = {"prototypes": MEANS, "class_means": MEANS, "class_names": NAMES}
    labels = np.arange(300) % 12
    return {
        "training": runs.training_figure(RECORDS),
        "cosines": runs.cosine_figure(arrays),
        "cosines of means": features.cosines_figure(MEANS, None, NAMES),
        "spectrum": features.spectrum_figure(MEANS, np.ones(5) / 5),
        "map": features.map_figure(MEANS[labels], labels, MEANS, NAMES),
    }


@pytest.fixture(scope="module")
def drawn():
    found = figures()
    for figure in found.values():
        figure.canvas.draw()
    yield found
    for figure in found.values():
        style.matplotlib()[0].close(figure)


def test_nothing_is_clipped(drawn):
    for name, figure in drawn.items():
        box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        edges = box.x0, box.y0, width - box.x1, height - box.y1
        assert min(edges) > -0.02, (name, edges)


def test_titles_and_grids_are_alike(drawn):
    sizes = {
        axis.title.get_fontsize() for f in drawn.values() for axis in f.axes if axis.get_title()
    }
    assert sizes == {10.5}
    labels = [text.get_text() for text in drawn["cosines"].axes[0].get_yticklabels()]
    assert all(len(label) == 16 and label.endswith("…") for label in labels)
    assert drawn["training"].axes[2].get_yscale() == "log"
