"""Launchers say what they would do, start again what can succeed, and never repeat what is done."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from launchers import launch, stand_in
from small_runs import ROOT, SMALL, merged

SHELL = ["launch/gpu.sh", "launch/tpu_pod.sh", "launch/slurm.sbatch", ".ci/run"]
SHELL += ["benchmarks/gpu_half_hour.sh"]


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shell_scripts_are_clean():
    done = subprocess.run(["shellcheck", *SHELL], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


POD = ("--name=p", "--zone=z", "--type=v5litepod-16", "--nfs=10.0.0.2:/share")
DRY = {
    "gpu.sh": ("--config=a.py:b=c", "--workdir=d e"),
    "tpu_pod.sh": (*POD, "--config=a.py:b=c", "--workdir=d e"),
    "slurm.sbatch": ("--config=a.py:b=c", "--workdir=d e"),
    "simulate_pod.py": ("--config=a.py:b=c", "--workdir=d e"),
    "sweep.py": ("--config=a.py:b=c", "--out=d e"),
}


@pytest.mark.parametrize("script", DRY)
def test_a_dry_run_prints_the_commands_and_starts_nothing(script, tmp_path):
    for name in ("python", "gcloud", "srun", "git"):
        stand_in(tmp_path, name, "")
    flags, environment = DRY[script], {"PYTHON": str(tmp_path / "python")}
    done, calls = launch(tmp_path, script, "--dry-run", *flags, **environment)
    assert done.returncode == 0 and not calls, done.stderr
    told = re.sub(r"[\\'\"]", "", done.stdout)  # without its quoting
    assert "-m hsproto.train" in told and "--config=a.py:b=c" in told and "d e" in told


def wait_for(condition):
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_on_a_gpu_a_finished_run_and_a_users_mistake_are_not_repeated(tmp_path):
    for status in (0, 2):
        python = stand_in(tmp_path, "python", f"exit {status}")
        done, calls = launch(tmp_path, "gpu.sh", "--workdir=x", PYTHON=str(python))
        assert done.returncode == status
        assert calls[-1] == "python -m hsproto.train --workdir=x"
    assert len(calls) == 2


def test_on_a_gpu_a_run_that_died_is_started_again(tmp_path):
    stand_in(tmp_path, "sleep", "")
    python = stand_in(tmp_path, "python", "exit 1")
    done, calls = launch(tmp_path, "gpu.sh", "--tries=3", "--workdir=x", PYTHON=str(python))
    assert done.returncode == 1 and sum(c.startswith("python") for c in calls) == 3


def test_a_signal_to_the_gpu_launcher_lets_the_run_save(tmp_path):
    saved = tmp_path / "saved"
    python = stand_in(
        tmp_path, "python",
        f"trap 'sleep 0.5; echo saved > {saved}; exit 0' TERM\nwhile true; do sleep 0.05; done",
    )  # fmt: skip
    process = subprocess.Popen(
        [ROOT / "launch/gpu.sh", "--workdir=x"], env=os.environ | {"PYTHON": str(python)}
    )
    wait_for((tmp_path / "calls").exists)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0 and saved.exists()


def test_a_signal_between_two_tries_ends_the_gpu_launcher(tmp_path):
    python = stand_in(tmp_path, "python", "exit 1")
    process = subprocess.Popen(
        [ROOT / "launch/gpu.sh", "--workdir=x"],
        env=os.environ | {"PYTHON": str(python)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "try 1 of 5" in process.stderr.readline()
    time.sleep(0.3)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 1 and time.monotonic() - began < 3
    assert len((tmp_path / "calls").read_text().splitlines()) == 1
    process.stderr.close()


@pytest.mark.parametrize("tries", ["", "x", "0", "-1", "1e9"])
def test_the_gpu_launcher_refuses_absurd_tries(tmp_path, tries):
    python = stand_in(tmp_path, "python", "exit 1")
    done, calls = launch(tmp_path, "gpu.sh", f"--tries={tries}", "--workdir=x", PYTHON=str(python))
    assert done.returncode == 2 and not calls and len(done.stderr.splitlines()) == 1


def gcloud(state, fails=""):
    """What stands in for gcloud: a pod's state is `state` once it was created."""
    return f"""
case "$*" in
  *create*) echo {state} > "$0.state" ;;
  *delete*) rm -f "$0.state" ;;
  *describe*) cat "$0.state" 2>/dev/null || exit 1 ;;
  {fails or "never"}) exit 1 ;;
esac"""


def verbs(calls):
    pods = [c for c in calls if c.startswith("gcloud")]
    return [word for c in pods for word in c.split() if word in ("create", "scp", "delete")]


def on_a_pod(tmp_path, *flags, state="READY", fails="", **environment):
    """tpu_pod.sh with stand-ins; `calls` of gcloud alone matter, git says that all is committed."""
    stand_in(tmp_path, "sleep", "")
    stand_in(tmp_path, "git", environment.pop("git", ""))
    stand_in(tmp_path, "gcloud", gcloud(state, fails))
    flags = (*POD, "--config=configs/digits.py", "--workdir=w", *flags)
    return launch(tmp_path, "tpu_pod.sh", *flags, PYTHON=sys.executable, **environment)


def test_a_pod_that_was_preempted_is_created_anew(tmp_path):
    done, calls = on_a_pod(
        tmp_path, "--spot", "--tries=2", state="PREEMPTED", fails="*hsproto.train*"
    )
    assert done.returncode == 1
    assert verbs(calls) == ["create", "scp", "delete", "create", "scp", "delete"]
    assert any("--version=v2-alpha-tpuv5-lite --spot" in c for c in calls)


def test_a_pod_is_created_used_and_deleted_also_after_a_failure(tmp_path):
    done, calls = on_a_pod(tmp_path, "--tries=2", fails="*hsproto.train*")
    assert done.returncode == 1
    assert verbs(calls) == ["create", "scp", "delete"]
    assert "deleting the pod p, which this call created" in done.stderr
    trained = [c for c in calls if "hsproto.train" in c]
    assert len(trained) == 2
    assert "--distributed --config=configs/digits.py --workdir=/mnt/hsproto/w" in trained[0]
    # What may still run after a dropped connection ends before training starts.
    stopped = [i for i, c in enumerate(calls) if "pkill -TERM" in c]
    assert len(stopped) == 2 and all(calls.index(trained[0]) > i for i in stopped[:1])
    done, _ = launch(tmp_path, "tpu_pod.sh", "--name=p")
    assert done.returncode == 2 and "--zone is missing" in done.stderr


@pytest.mark.parametrize("status", [0, 1, 2])
@pytest.mark.parametrize("state", ["READY", "PREEMPTED"])
def test_a_pod_that_stood_before_is_never_deleted(tmp_path, state, status):
    (tmp_path / "gcloud.state").write_text(state)
    fails = "*hsproto.train*) exit 2 ;; never" if status == 2 else "*hsproto.train*" * (status == 1)
    done, calls = on_a_pod(tmp_path, "--tries=2", fails=fails)
    assert done.returncode == (status if state == "READY" else 2), done.stderr
    assert not {"create", "delete"} & set(verbs(calls))
    told = "is left standing" if state == "READY" else "was not created by this call"
    assert told in done.stderr


def test_flags_of_the_pod_are_passed_on(tmp_path):
    done, calls = on_a_pod(
        tmp_path, "--project=q", "--network=n", "--reservation=r", "--gcloud", "--labels=a=b"
    )
    assert done.returncode == 0, done.stderr
    (created,) = [c for c in calls if " create " in c]
    assert all(f in created for f in ("--network=n", "--reservation=r", "--labels=a=b"))
    assert all("--project=q" in c for c in calls if c.startswith("gcloud"))


@pytest.mark.parametrize(
    ("flags", "git", "message"),
    [
        (["--config=configs/none.py"], "", "no file 'configs/none.py'"),
        (["--config=configs/digits.py:nothing=1"], "", "unknown config key 'nothing'"),
        (["--config=configs/cifar.py"], "", "must be a path below /mnt/hsproto"),
        (["--workdir=gs://bucket/run"], "", "must be a folder on the share"),
        (["--workdir=/tmp/run"], "", "must be a folder on the share"),
        ([], 'case "$*" in *status*) echo "M configs/a.py" ;; esac', "only what is committed"),
        ([], 'case "$*" in *ls-files*) exit 1 ;; esac', "is not a committed file"),
    ],
)
def test_nothing_is_created_where_a_run_could_not_start(tmp_path, flags, git, message):
    done, calls = on_a_pod(tmp_path, *flags, git=git)
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert not [c for c in calls if c.startswith("gcloud")]


@pytest.mark.parametrize(
    ("status", "finished", "queued"), [(0, True, 0), (0, False, 1), (2, False, 0)]
)
def test_a_slurm_job_is_queued_again_until_its_run_is_finished(tmp_path, status, finished, queued):
    stand_in(tmp_path, "srun", f"exit {status}")
    stand_in(tmp_path, "scontrol", "")
    if finished:
        (tmp_path / "summary.json").write_text("{}")
    done, calls = launch(tmp_path, "slurm.sbatch", f"--workdir={tmp_path}", SLURM_JOB_ID="7")
    assert done.returncode == status
    assert sum(c == "scontrol requeue 7" for c in calls) == queued


def test_a_slurm_job_hands_its_cores_to_its_processes(tmp_path):
    stand_in(tmp_path, "srun", "exit 2")
    environment = {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "12"}
    _, calls = launch(tmp_path, "slurm.sbatch", f"--workdir={tmp_path}", **environment)
    assert "--cpus-per-task=12" in calls[0]


def test_a_slurm_job_that_fails_again_and_again_is_given_up(tmp_path):
    stand_in(tmp_path, "srun", "exit 1")
    stand_in(tmp_path, "scontrol", "")
    environment = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "5"}
    done, calls = launch(tmp_path, "slurm.sbatch", f"--workdir={tmp_path}", **environment)
    assert done.returncode == 1 and "given up" in done.stderr
    assert not [c for c in calls if c.startswith("scontrol")]


def test_a_sweep_runs_each_cell_once_and_tells_means_over_seeds(tmp_path):
    summary = json.dumps({"test": {"accuracy": 0.5}})
    body = f"""
for flag in "$@"; do case "$flag" in --workdir=*) dir=${{flag#*=}} ;; esac; done
case "$dir" in *loss=ntce*seed=1*) exit 1 ;; esac
echo '{summary}' > "$dir/summary.json\""""
    trainer = stand_in(tmp_path, "trainer", body)
    flags = ("--config=a.py:x=1", f"--out={tmp_path / 'out'}", "--grid", "loss=nonl,ntce")
    flags += ("--seeds=2", "--jobs=2", f"--launcher={trainer}")
    done, calls = launch(tmp_path, "sweep.py", *flags)
    assert done.returncode == 1 and len(calls) == 4, done.stderr
    assert any("--config=a.py:x=1,loss=nonl,seed=0" in c for c in calls)
    assert "loss=nonl: 0.5000 ± 0.0000 (n=2)" in done.stdout
    assert "loss=ntce: 0.5000 (n=1)" in done.stdout
    _, calls = launch(tmp_path, "sweep.py", *flags)
    assert len(calls) == 5, "only the cell that failed is run again"
    done, _ = launch(tmp_path, "sweep.py", "--config=a.py:x=2", *flags[1:])
    assert done.returncode == 2 and "another --config" in done.stderr
    for more, message in (
        (["--grid", "loss=ntce"], "gives loss twice"),
        (["--grid", "seed=1,2"], "--seeds=N"),
        (["--grid", "../../x=1"], "must be a config key"),
        (["--grid", "x=../../y"], "must be a config key"),
    ):
        done, _ = launch(tmp_path, "sweep.py", *flags, *more)
        assert done.returncode == 2 and message in done.stderr, done.stderr
    done, _ = launch(tmp_path, "sweep.py", *flags, "--grid", "loss")
    assert done.returncode == 2 and "not of the form" in done.stderr


def test_a_stopped_sweep_lets_its_cells_save_and_begins_no_other(tmp_path):
    trainer = stand_in(
        tmp_path, "trainer", "trap 'echo saved >> " + str(tmp_path / "saved") + "; exit 0' TERM\n"
        "while true; do sleep 0.05; done",
    )  # fmt: skip
    flags = ["--config=a.py", f"--out={tmp_path / 'out'}", "--seeds=3", f"--launcher={trainer}"]
    process = subprocess.Popen(
        [sys.executable, ROOT / "launch/sweep.py", *flags], stdout=subprocess.PIPE, text=True
    )
    wait_for((tmp_path / "calls").exists)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 1
    assert (tmp_path / "saved").read_text() == "saved\n"
    assert len((tmp_path / "calls").read_text().splitlines()) == 1


def test_a_sweep_waits_for_the_run_that_a_killed_one_left_at_work(tmp_path):
    summary = json.dumps({"test": {"accuracy": 0.5}})
    trainer = tmp_path / "trainer.py"
    trainer.write_text(f"""#!{sys.executable}
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from hsproto.runs import owner
folder = sys.argv[-1].partition("=")[2]
with owner.owned(folder):
    open({str(tmp_path / "calls")!r}, "a").write("started ")
    until = time.monotonic() + 30
    while not os.path.exists({str(tmp_path / "go")!r}) and time.monotonic() < until:
        time.sleep(0.05)
    open(folder + "/summary.json", "w").write({summary!r})
""")
    trainer.chmod(0o755)
    out = tmp_path / "out"
    command = [sys.executable, ROOT / "launch/sweep.py", "--config=a.py", f"--out={out}"]
    command.append(f"--launcher={trainer}")

    def sweep():
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    first = sweep()
    wait_for(lambda: (tmp_path / "calls").exists())
    refused = sweep()
    _, said = refused.communicate(timeout=30)
    assert refused.returncode == 2
    assert f"hsproto: --out={out} is in use by process {first.pid} on " in said
    assert len(said.splitlines()) == 1
    first.kill()
    first.communicate(timeout=30)
    again = sweep()
    assert "is taken over from process" in again.stdout.readline()
    assert "1 cells, 0 finished already" in again.stdout.readline()
    assert "seed=0: waiting for process" in again.stdout.readline()
    (tmp_path / "go").touch()
    told, _ = again.communicate(timeout=30)
    assert again.returncode == 0 and "seed=0: test accuracy 0.5000" in told, told
    assert (tmp_path / "calls").read_text() == "started "
    assert sorted(path.name for path in out.iterdir()) == ["seed=0"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--launcher=no-such-command x"],
            "--launcher=no-such-command x: there is no such command",
        ),
        (["--launcher='"], "No closing quotation"),
        (["--launcher="], "there is no such command"),
        (["--out=file/out"], "--out=file/out is no folder to write to: Not a directory"),
        (["--out=file"], "--out=file is no folder to write to: File exists"),
        (["--out=gs://bucket/x"], "is a remote location"),
        (["--grid", f"loss={'x' * 300}"], "would have a folder's name of 312 bytes"),
        (["--grid", "a=1", "--grid", "a=2"], "--grid gives a twice"),
        (["--seeds=x"], "invalid int value"),
        (["--jobs=0"], "must be at least 1"),
    ],
)
def test_a_mistake_in_the_flags_of_a_sweep_is_one_line(tmp_path, flags, message):
    (tmp_path / "file").touch()
    done = subprocess.run(
        [ROOT / "launch/sweep.py", "--config=a.py", "--out=out", *flags],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("hsproto: ")
    assert os.listdir(tmp_path) == ["file"]


def test_the_launchers_need_the_standard_library_alone():
    code = "import sys; sys.path.insert(0, 'launch'); import jobs; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not {"numpy", "jax", "absl", "ml_collections"} & loaded


@pytest.mark.slow
def test_a_sweep_of_real_runs(tmp_path, child_environment):
    config = f"--config={ROOT}/configs/digits.py:{merged(SMALL, 'epochs=1,warmup_epochs=0')}"
    done, _ = launch(
        tmp_path, "sweep.py", config, f"--out={tmp_path}",
        **child_environment | {"PYTHON": sys.executable},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + (tmp_path / "seed=0/log.txt").read_text()
    assert "1 cells, 0 finished already" in done.stdout and "(n=1)" in done.stdout
