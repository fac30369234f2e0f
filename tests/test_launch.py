"""Launch files: their syntax, the commands that they run, and the requirements that they install.

The scripts run for real, with stand-ins for the programs of a cluster that note how they were
called; what they would train is given to the command line's own parser.
"""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from train.command import Arguments, parse

ROOT = Path(__file__).parent.parent
LAUNCH = ROOT / "train" / "launch"
SCRIPTS = ["cloud_tpu.sh", "slurm.sbatch", "many_gpus.sh"]
CLUSTER = {
    "cloud_tpu.sh": {
        **{"TPU_NAME": "pod", "ZONE": "us-east5-b", "WORKDIR": "gs://bucket/run"},
        "REPOSITORY": "https://git.example/memjax",
    },
    "slurm.sbatch": {"WORKDIR": "/shared/run", "SLURM_JOB_ID": "17"},
    "many_gpus.sh": {"WORKDIR": "runs/a run"},
}


def launched(
    script: str, folder: Path, codes: dict[str, int] | None = None, **changed: str
) -> tuple[int, list[list[str]]]:
    """The exit code of a script, and the programs of a cluster that it called, with arguments."""
    calls = folder / "calls"
    calls.mkdir()
    for name in ("gcloud", "srun", "scontrol", "python"):
        path = folder / name
        path.write_text(
            "#!/usr/bin/env bash\n"
            f'file="{calls}/$(find "{calls}" -type f | wc -l)"\n'
            f'printf "%s\\0" {name} "$@" >"$file"\n'
            f"exit {(codes or {}).get(name, 0)}\n"
        )
        path.chmod(0o755)
    environment = {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PYTHON": "python",
        **CLUSTER[script],
        **changed,
    }
    done = subprocess.run(
        ["bash", str(LAUNCH / script)], env=environment, capture_output=True, text=True, check=False
    )
    found = sorted(calls.iterdir(), key=lambda path: int(path.name))
    return done.returncode, [path.read_text().split("\0")[:-1] for path in found]


def arguments(words: list[str]) -> Arguments:
    """What comes after `-m train`, as the command line reads it."""
    return parse(words[words.index("train") + 1 :])


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_bash(script: str) -> None:
    subprocess.run(["bash", "-n", str(LAUNCH / script)], check=True)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_has_nothing_to_say(script: str) -> None:
    done = subprocess.run(
        ["shellcheck", "--shell=bash", str(LAUNCH / script)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("script", "name"),
    [(script, name) for script in SCRIPTS for name in CLUSTER[script] if "SLURM" not in name],
)
def test_what_is_not_set_is_asked_for(script: str, name: str, tmp_path: Path) -> None:
    code, calls = launched(script, tmp_path, **{name: ""})
    assert code != 0 and calls == []


def test_cloud_tpu_runs_the_same_on_every_host(tmp_path: Path) -> None:
    code, calls = launched("cloud_tpu.sh", tmp_path)
    assert code == 0 and len(calls) == 2
    for call in calls:
        assert call[:5] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh"]
        assert {"pod", "--zone=us-east5-b", "--worker=all"} <= set(call)
    install, run = (call[-1].removeprefix("--command=") for call in calls)
    assert "-r requirements-tpu.txt" in install and (ROOT / "requirements-tpu.txt").exists()
    for command in (install, run):
        subprocess.run(["bash", "-n", "-c", command], check=True)
    found = arguments(shlex.split(run))
    assert found.workdir == "gs://bucket/run" and found.processes.distributed
    assert found.experiment.train.batch_size == 128


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=A", "-c", "user.email=a@b.example", "-c", "commit.gpgsign=false")
    command = ["git", *identity, "-C", str(folder), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def commit(repository: Path, name: str) -> str:
    git(repository, "commit", "--quiet", "--allow-empty", "-m", name)
    return git(repository, "rev-parse", "HEAD")


def on_a_host(folder: Path, **environment: str) -> list[list[str]]:
    """Run the commands of cloud_tpu.sh in a folder; returns how `.venv/bin/python` was called."""
    host, programs, calls = folder / "host", folder / "programs", folder / "calls"
    for one in (host, programs):
        one.mkdir(exist_ok=True)
    calls.unlink(missing_ok=True)
    scripts = {
        # The last argument is --command=...
        "gcloud": f'cd "{host}" && exec bash -c "$(printf %s "${{@: -1:1}}" | tail -c +11)"',
        "python3": f'mkdir -p "$3/bin" && cp "{programs}/called" "$3/bin/python"',
        "called": f'printf "%s\\0" "$@" >>"{calls}" && echo >>"{calls}"',
    }
    for name, text in scripts.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (programs / name).chmod(0o755)
    subprocess.run(
        ["bash", str(LAUNCH / "cloud_tpu.sh")],
        env={"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(folder), **environment},
        check=True,
    )
    return [line.split("\0")[:-1] for line in calls.read_text().splitlines()]


CLOUD = CLUSTER["cloud_tpu.sh"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository whose path has a space, with one commit."""
    folder = tmp_path / "a repository"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, "first")
    return folder


def test_cloud_tpu_keeps_arguments_whole(repository: Path, tmp_path: Path) -> None:
    workdir = "gs://bucket/a 'run' of \"mine\"; $HOME `id`"
    given = {**CLOUD, "REPOSITORY": str(repository), "WORKDIR": workdir, "BATCH_SIZE": "64 "}
    install, run = on_a_host(tmp_path, **given)
    assert install == ["-m", "pip", "install", "--quiet", "-r", "requirements-tpu.txt"]
    assert run[:5] == ["-m", "train", "mem_vae_mnist", "--workdir", workdir]
    assert run[5:] == ["--train.batch-size", "64 ", "--distributed"]


def test_cloud_tpu_trains_the_commit_that_is_asked_for(repository: Path, tmp_path: Path) -> None:
    given = {**CLOUD, "REPOSITORY": str(repository)}
    clone = tmp_path / "host" / "memjax"

    def head(**asked: str) -> str:
        on_a_host(tmp_path, **given, **asked)
        return git(clone, "rev-parse", "HEAD")

    first = git(repository, "rev-parse", "HEAD")
    git(repository, "tag", "v1")
    assert head() == first
    git(repository, "checkout", "--quiet", "-b", "a-branch")
    one = commit(repository, "on a branch")
    git(repository, "checkout", "--quiet", "main")
    second = commit(repository, "second")
    assert head() == second
    assert head(COMMIT="a-branch") == one
    git(repository, "checkout", "--quiet", "a-branch")
    other = commit(repository, "on a branch again")
    git(repository, "checkout", "--quiet", "main")
    assert head(COMMIT="a-branch") == other
    assert head(COMMIT="v1") == head(COMMIT=first[:12]) == first
    assert head(COMMIT="main") == head() == second
    with pytest.raises(subprocess.CalledProcessError):
        head(COMMIT="no-such")
    assert not (tmp_path / "calls").exists()  # nothing is installed or trained


def test_cloud_tpu_trains_nothing_where_it_cannot_install(tmp_path: Path) -> None:
    code, calls = launched("cloud_tpu.sh", tmp_path, codes={"gcloud": 3})
    assert code == 3 and len(calls) == 1


def test_slurm_starts_a_process_for_each_gpu(tmp_path: Path) -> None:
    code, ((program, *words),) = launched("slurm.sbatch", tmp_path)
    assert code == 0 and program == "srun" and "--kill-on-bad-exit=1" in words
    found = arguments(words)
    assert found.workdir == "/shared/run" and found.processes.distributed
    options = dict(
        line.removeprefix("#SBATCH --").split("=", 1)
        for line in (LAUNCH / "slurm.sbatch").read_text().splitlines()
        if line.startswith("#SBATCH") and "=" in line
    )
    assert options["gres"] == f"gpu:{options['ntasks-per-node']}"
    assert options["signal"] == "TERM@120"
    devices = int(options["nodes"]) * int(options["ntasks-per-node"])
    assert found.experiment.train.batch_size % devices == 0


@pytest.mark.parametrize("status", [143, 2])
def test_slurm_queues_again_what_was_saved(status: int, tmp_path: Path) -> None:
    code, calls = launched("slurm.sbatch", tmp_path, codes={"srun": status})
    assert code == status
    assert calls[1:] == ([["scontrol", "requeue", "17"]] if status == 143 else [])


def test_many_gpus_are_driven_by_one_process(tmp_path: Path) -> None:
    changed = {"EXPERIMENT": "vae_mnist", "BATCH_SIZE": "64"}
    code, ((program, *words),) = launched(
        "many_gpus.sh", tmp_path, codes={"python": 143}, **changed
    )
    assert code == 143 and program == "python"
    found = arguments(words)
    assert found.workdir == "runs/a run" and not found.processes.distributed
    assert found.experiment.name == "vae_mnist" and found.experiment.train.batch_size == 64


def jobset() -> dict[str, Any]:
    return yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())


def test_jobset_restarts_all_pods_together() -> None:
    document = jobset()
    assert document["kind"] == "JobSet" and document["spec"]["failurePolicy"]["maxRestarts"] > 0
    (job,) = document["spec"]["replicatedJobs"]
    assert job["replicas"] == 1
    spec = job["template"]["spec"]
    assert spec["backoffLimit"] == 0 and spec["completionMode"] == "Indexed"
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never" and pod["terminationGracePeriodSeconds"] >= 60
    # As many pods as the slice has hosts.
    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    (container,) = pod["containers"]
    chips = int(topology[0]) * int(topology[1])
    hosts = chips // container["resources"]["limits"]["google.com/tpu"]
    assert spec["completions"] == spec["parallelism"] == hosts
    found = arguments(container["command"])
    assert found.processes.distributed and found.workdir.startswith("gs://")
    assert found.experiment.train.batch_size % chips == 0


def test_every_launch_file_has_a_page_that_the_readme_names() -> None:
    files = {path.stem for path in LAUNCH.iterdir() if path.suffix != ".md"}
    assert files == {path.stem for path in LAUNCH.glob("*.md")}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in files:
        assert f"(train/launch/{name}.md)" in readme


def test_pages_name_the_variables_of_their_scripts() -> None:
    for script in SCRIPTS:
        source = (LAUNCH / script).read_text()
        used = set(re.findall(r"\$\{([A-Z_]+):", source))
        page = (LAUNCH / script).with_suffix(".md").read_text()
        assert used and not [name for name in used if name not in page]


@pytest.mark.parametrize(("name", "extra"), [("tpu", "tpu"), ("cuda", "cuda12")])
def test_requirements_of_accelerators_agree_with_the_lock(name: str, extra: str) -> None:
    locked = re.findall(
        r"^jax==(.*)$", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE
    )
    lines = (ROOT / f"requirements-{name}.txt").read_text().splitlines()
    assert "-r requirements.lock" in lines
    found = [line.removeprefix(f"jax[{extra}]==") for line in lines if line.startswith("jax[")]
    assert locked and found == locked


def test_buckets_have_their_library_on_a_tpu() -> None:
    lines = (ROOT / "requirements-tpu.txt").read_text().splitlines()
    assert [line for line in lines if line.startswith("gcsfs==")]
