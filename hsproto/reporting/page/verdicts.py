"""What a run came to, in a few words: how collapsed it is and how often it is right."""

from hsproto import verdict
from hsproto.metrics import defined
from hsproto.runs import run as run_lib
from hsproto.runs import summary as summary_lib
from hsproto.runs.predictions_file import Predicted
from hsproto.runs.run import Run


def verdict_of(run: Run, predicted: Predicted | None) -> list[str]:
    """Return sentences on a run at its end, or at its last evaluation.

    Collapse is that of the training set's directions, accuracy that of the test set.
    """
    step, train = run_lib.final_metrics(run, "train")
    sentences = [_of_collapse(run, train)]
    accuracy = run_lib.final_metrics(run, "test")[1].get("accuracy")
    if defined(accuracy):
        text = f"Test accuracy {accuracy:.3f}"
        if predicted is not None:
            text += f" ({predicted.right().sum()} of {len(predicted.labels)} images right)"
        sentences.append(f"{text}.")
    if run.summary is None:
        at = "before its first evaluation" if step is None else f"at its evaluation of step {step}"
        sentences.append(f"Not finished: this is the run {at}.")
    return sentences


def _of_collapse(run, measures):
    classes = run.config["num_classes"]
    if classes < 2:
        return "A single class: there is nothing to compare."
    rank = measures.get("erank_inter")
    spread = verdict.spread_of_directions(measures, classes)
    if not defined(rank) or not defined(spread):
        return "How collapsed it is was not measured."
    dim = summary_lib.dimensions(run)
    angles = measures.get("nc2_equiangular")
    sentences = [
        verdict.collapse(rank, angles if defined(angles) else None, spread, classes, dim),
        verdict.no_room(classes, dim),
    ]
    return " ".join(filter(None, sentences))
