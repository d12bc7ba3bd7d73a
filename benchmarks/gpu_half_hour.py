"""Half an hour on a GPU, what matters most first: numbers, throughput, CIFAR-100 with ResNet-18.

    python benchmarks/gpu_half_hour.py --out=DIR [--data=cifar100.npz] [--minutes=28] [--toy]

1. check       benchmarks/device_check.py: losses, gradients and metrics against float64
2. throughput  benchmarks/throughput.py: ResNet-18 at 32 px and ResNet-50 at 224 px, the share of
               the peak FLOP/s that they use, the loss's share of a step; compiled and eager torch
               beside them where torch is installed
3. train       `hsproto train` on CIFAR-100 with ResNet-18, the same number of epochs for every
               loss: as many as the time that is left allows, by a run of two epochs before

Each part is a process of its own, bounded in time; what is done is not done again, and the same
command goes on where the last one ended, with its number of epochs. DIR gets half_hour.json,
half_hour.md and all that the parts write. --data is an npz file of train_images, train_labels,
test_images, test_labels and class_names; without it the set is read by TensorFlow Datasets.
--toy runs the same on a CPU in about a minute, for a look at it and for the tests. Exit status 1 if
a number was wrong or a part failed.
"""

import argparse
import json
import math
import pathlib
import signal
import subprocess
import sys
import time

import measuring

from hsproto.runs.files import write_text

ROOT = pathlib.Path(__file__).parents[1]
# Most important first; SCL embeds two views of each image.
LOSSES = (
    "nonl",
    "cross_entropy",
    "ntce",
    "normface",
    "decoupled_normface",
    "dot_regression",
    "scl",
)
VIEWS = {"scl": 2}
TIMED_EPOCHS = 2
LIMITS = {"device_check": 240, "throughput": 600}  # seconds
_TO_SAVE = 60  # seconds that a run has to save its state when it is told to stop


class Clock:
    """The time that is left of all."""

    def __init__(self, minutes):
        self._end = time.monotonic() + 60 * minutes

    def left(self):
        return self._end - time.monotonic()


def run(name, command, out, seconds):
    """Run a part with its output in OUT/name.log; return what came of it."""
    print(f"{name}: {' '.join(map(str, command))}  (at most {seconds:.0f} s)", flush=True)
    began = time.monotonic()
    with open(out / f"{name}.log", "a") as log:
        part = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            status = part.wait(max(1, seconds))
        except subprocess.TimeoutExpired:
            part.send_signal(signal.SIGTERM)
            try:
                part.wait(_TO_SAVE)
            except subprocess.TimeoutExpired:
                part.kill()
                part.wait()
            status = None
    return {
        "command": " ".join(map(str, command)),
        "seconds": round(time.monotonic() - began, 1),
        "status": "ended by its time limit" if status is None else f"status {status}",
        "log": f"{name}.log",
    }


def read(path):
    """The content of a JSON file, or None where there is none."""
    return json.loads(path.read_text()) if path.is_file() else None


def measured(name, options, clock, extra):
    """The report of benchmarks/`name`.py, which is written once; else {"failed": why}."""
    path = options.out / f"{name}.json"
    if not (options.out / f"{name}.done").is_file():
        command = [sys.executable, f"benchmarks/{name}.py", f"--out={path}", *extra]
        done = run(name, command, options.out, min(LIMITS[name], clock.left()))
        # 1 from the check says that a number is wrong, which is a result.
        if done["status"] == "status 0" or (name == "device_check" and path.is_file()):
            (options.out / f"{name}.done").touch()
        else:
            return {"failed": done, **(read(path) or {"rows": []})}
    return read(path)


def config_of(loss, epochs, options):
    """--config of a run."""
    if options.toy:
        values = dict(loss=loss, epochs=epochs, batch_size=256, warmup_epochs=0)
        return "--config=digits:" + ",".join(f"{k}={v}" for k, v in values.items())
    values = dict(
        dataset="cifar100",
        loss=loss,
        epochs=epochs,
        dtype="bfloat16",
        eval_every_epochs=max(1, epochs // 4),
        checkpoint_every_epochs=max(1, epochs // 4),
    )
    if options.data:
        values |= dict(source="arrays", data_dir=options.data)
    return "--config=cifar:" + ",".join(f"{k}={v}" for k, v in values.items())


def train(name, loss, epochs, options, clock):
    """The summary of a run, which is resumed where it stands; else {"failed": why}."""
    workdir = options.out / "runs" / name
    done = run(
        f"train_{name}",
        [
            *(sys.executable, "-m", "hsproto", "train"),
            *(config_of(loss, epochs, options), f"--workdir={workdir}"),
        ],
        options.out,
        clock.left() - _TO_SAVE,
    )
    summary = read(workdir / "summary.json")
    if done["status"] != "status 0" or summary is None:
        return {"failed": done}
    return {"seconds": done["seconds"], "summary": summary}


def plan(options, clock):
    """{"epochs": of each loss, ...}, decided once; else {"failed": why}."""
    path = options.out / "plan.json"
    if (known := read(path)) is not None:
        return known
    timed = train("timed", options.losses[0], TIMED_EPOCHS, options, clock)
    if "failed" in timed:
        return timed
    summary = timed["summary"]
    images = summary["config"]["num_examples"]
    epoch = images / summary["images_per_second"]
    start = max(0.0, timed["seconds"] - TIMED_EPOCHS * epoch)  # compilation and evaluation too
    share = sum(VIEWS.get(loss, 1) for loss in options.losses)
    # The first loss's program is in the cache by now; the others compile theirs.
    left = 0.9 * (clock.left() - _TO_SAVE - len(options.losses) * start)
    epochs = min(options.epochs, math.floor(left / (share * epoch)))
    known = {
        "epochs": epochs,
        "losses": options.losses,
        "seconds per epoch": round(epoch, 2),
        "seconds to start and to evaluate": round(start, 1),
        "devices": summary["devices"],
    }
    if epochs < 1:
        return {"failed": {**known, "status": "no time for an epoch of each loss"}}
    write_text(path, json.dumps(known, indent=1))
    return known


def trained(options, clock):
    """{"plan": ..., "rows": a row per loss}."""
    planned = plan(options, clock)
    if "failed" in planned:
        return {"plan": planned, "rows": []}
    rows = []
    for loss in planned["losses"]:
        row = {"loss": loss, "epochs": planned["epochs"]}
        done = {"failed": {"status": "no time was left"}}
        summary = read(options.out / "runs" / loss / "summary.json")
        if summary is not None:
            done = {"summary": summary}
        elif clock.left() > 2 * _TO_SAVE or options.toy:
            done = train(loss, loss, planned["epochs"], options, clock)
        summary = done.get("summary")
        for key in ("accuracy", "accuracy_class_means", "nc1", "erank_inter", "cosine_means_mean"):
            row[f"test {key}"] = summary and summary["test"][key]
        row["images/s"] = summary and summary["images_per_second"]
        row["not finished"] = None if summary else why(done["failed"])
        rows.append(row)
    return {"plan": planned, "rows": rows}


def why(failed):
    """Why a part has no result, in words."""
    return failed["status"] + (f", see {failed['log']}" if "log" in failed else "")


def markdown(report):
    """The report as a page."""
    known = report["check"]  # of the same machine as the rest
    devices = known["machine"]["devices"] if "machine" in known else ["an unknown device"]
    lines = ["# Half an hour on " + ", ".join(sorted(set(devices)))]
    for title, name in (
        ("Numbers against float64", "check"),
        ("Throughput", "throughput"),
        ("CIFAR-100, ResNet-18" if not report["toy"] else "Digits (a trial)", "train"),
    ):
        part = report[name]
        failed = part.get("failed") or part.get("plan", {}).get("failed")
        lines += ["", f"## {title}", ""]
        if failed:
            lines += [f"Not finished: {why(failed)}.", ""]
        lines += measuring.table(part["rows"]) if part["rows"] else ["No figures."]
    versions = ", ".join(f"{k} {v}" for k, v in known.get("versions", {}).items())
    lines += ["", f"`{report['command']}`; {versions}", ""]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, help="a folder")
    parser.add_argument("--data", help="npz file of CIFAR-100; default: TensorFlow Datasets")
    parser.add_argument("--minutes", type=float, default=28.0)
    parser.add_argument("--epochs", type=int, default=200, help="at most")
    parser.add_argument("--losses", default=",".join(LOSSES))
    parser.add_argument("--toy", action="store_true", help="small shapes and the digits")
    options = parser.parse_args()
    options.losses = options.losses.split(",")
    if unknown := set(options.losses) - set(LOSSES):
        parser.error(f"--losses: {', '.join(sorted(unknown))}; known are {', '.join(LOSSES)}")
    if options.data and not pathlib.Path(options.data).is_file():
        parser.error(f"--data={options.data} is not there")
    options.out = options.out.absolute()
    options.data = options.data and str(pathlib.Path(options.data).absolute())
    options.out.mkdir(parents=True, exist_ok=True)
    clock = Clock(options.minutes)
    small = ["--shape=32,4,8", "--losses=nonl"] if options.toy else []
    tiny = "--cases=resnet18 --size=8 --width=4 --batch=8 --steps=1 --rounds=1 --against="
    report = {"command": " ".join(["python", *sys.argv]), "toy": options.toy}

    def keep():
        write_text(options.out / "half_hour.json", json.dumps(report, indent=1))
        write_text(options.out / "half_hour.md", markdown(report))

    report |= dict.fromkeys(("check", "throughput", "train"), {"rows": []})
    report["check"] = measured("device_check", options, clock, small)
    keep()
    report["throughput"] = measured("throughput", options, clock, tiny.split() * options.toy)
    keep()
    report["train"] = trained(options, clock)
    keep()
    print((options.out / "half_hour.md").read_text())
    wrong = any(row["right"] == "NO" for row in report["check"]["rows"])
    failed = any("failed" in report[name] for name in ("check", "throughput"))
    rows = report["train"]["rows"]
    return int(wrong or failed or not rows or any(row["not finished"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
