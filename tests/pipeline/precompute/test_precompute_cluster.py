"""Stage one on real processes: workers that die, join late or are of another version, schedulers, SLURM, signals."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dask
import pytest
from distributed import LocalCluster
from fakes import EXACT, PRELOAD, FakeConfig, FakeGenerator, NoiseSource, frame_name

import combo_avs
from combo_avs.data.store.store import Cache, ClipStore
from combo_avs.errors import FAILED, INTERRUPTED, BadInput, ComboError
from combo_avs.model.builders import Entry
from combo_avs.model.foundation import GENERATORS
from combo_avs.pipeline.config.precompute import PrecomputeConfig, SlurmConfig
from combo_avs.pipeline.config.tree import parse_config
from combo_avs.pipeline.imports.clips import import_clips
from combo_avs.pipeline.precompute.cluster import slurm_cluster
from combo_avs.pipeline.precompute.dispatch import DEADLY
from combo_avs.pipeline.precompute.driver import Plan, plan_caches, run_plans
from combo_avs.pipeline.precompute.selection import Selection

WORKER = [sys.executable, "-m", "distributed.cli.dask_worker", "--nthreads", "1", "--no-dashboard"]


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The fake generator, here and in all workers: in our own by this config, in those of a shell by the variable."""
    monkeypatch.setitem(GENERATORS, "fake", Entry(FakeConfig, FakeGenerator, EXACT))
    monkeypatch.setenv("DASK_DISTRIBUTED__WORKER__PRELOAD", json.dumps(PRELOAD["distributed.worker.preload"]))
    with dask.config.set(PRELOAD):
        yield


@pytest.fixture
def clips(tmp_path: Path) -> ClipStore:
    """Twelve shards: eight of one clip of 10 frames, four of two clips of 5."""
    import_clips(NoiseSource(clips=16), tmp_path / "root", shard_frames=10)
    return ClipStore(tmp_path / "root")


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


def plan(clips: ClipStore, **parameters: object) -> Plan:
    return plan_caches(clips.path.parent, PrecomputeConfig(generator=parameters), "fake", None)[0]


def name_of_one_frame(clips: ClipStore, start: int) -> int:
    """The name of the first frame from `start` on that no other frame shares."""
    names = [frame_name(frame) for frame in clips.read("frames", 0, clips.frames)]
    return next(name for name in names[start : start + 5] if names.count(name) == 1)


def started(marks: Path) -> set[int]:
    return {int(p.name.removeprefix("start-")) for p in marks.glob("start-*")} - {os.getpid()}


def wait_for(what: Callable[[], object]) -> None:
    while not what():
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def finished(made: Plan) -> bool:
    return Cache(made.path).unfinished() == []


@contextmanager
def own_cluster(workers: int) -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
        yield cluster


def test_a_clip_that_kills_workers_is_quarantined_and_the_rest_completes(clips: ClipStore, marks: Path) -> None:
    shard = next(s for s in range(clips.num_shards) if len(clips.clips_in(s)) == 2)
    (_, spared), (first, deadly) = clips.clips_in(shard)
    made = plan(clips, kills_on=[name_of_one_frame(clips, first)], marks=str(marks))
    (found,) = run_plans([made], workers=2).items()
    assert found == (deadly.id, DEADLY)
    assert len(list(marks.glob("kill-*"))) == 6  # three by the shard, three by the clip alone
    cache = Cache(made.path)
    assert cache.unfinished() == []
    lo, _ = cache.shard_range(shard)
    count = cache.read("mask_count", lo, lo + 10)
    assert (count[first - lo :] == 65535).all()
    assert (count[: spared.num_frames] == 3).all()
    again = plan_caches(clips.path.parent, PrecomputeConfig(), "fake", None, Selection(retry_quarantined=True))
    assert run_plans(again, workers=0) == {}  # whatever it was, it has passed


@pytest.mark.slow
def test_a_shard_all_of_whose_clips_kill_workers_is_given_up(clips: ClipStore, marks: Path) -> None:
    shard = next(s for s in range(clips.num_shards) if len(clips.clips_in(s)) == 2)
    names = [name_of_one_frame(clips, first) for first, _ in clips.clips_in(shard)]
    made = plan(clips, kills_on=names, marks=str(marks))
    with pytest.raises(
        ComboError, match=rf"1 of 12 shards failed.*\n.*shard {shard}: given up after it killed 3 workers"
    ) as e:
        run_plans([made], workers=2)
    assert e.value.exit_code == 5
    assert plan(clips).todo == (shard,)
    assert run_plans([plan(clips)], workers=0) == {}


def test_a_shard_whose_deadly_cause_has_passed_is_done_whole(clips: ClipStore, marks: Path) -> None:
    made = plan(clips, kills_on=[name_of_one_frame(clips, 34)], kills=3, marks=str(marks))
    assert run_plans([made], workers=2) == {}
    assert len(list(marks.glob("kill-*"))) == 3
    assert finished(made)


def test_the_shard_of_a_killed_worker_is_done_by_another(clips: ClipStore, marks: Path) -> None:
    made = plan(clips, seconds_per_frame=0.05, marks=str(marks))

    def kill_one() -> None:
        wait_for(lambda: started(marks))
        os.kill(min(started(marks)), signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    assert run_plans([made], workers=2) == {}
    killer.join()
    assert finished(made)
    assert len(started(marks)) >= 2


@pytest.mark.slow
def test_a_lost_device_costs_the_process_and_then_the_clip(clips: ClipStore, marks: Path) -> None:
    made = plan(clips, loses_device_on=[name_of_one_frame(clips, 5)], marks=str(marks))
    assert list(run_plans([made], workers=1).values()) == [DEADLY]
    assert len(started(marks)) >= 6  # three of the shard, three of the clip alone
    assert finished(made)


@pytest.fixture
def old_version(tmp_path: Path) -> str:
    """A file that makes a worker that preloads it one of an older version."""
    file = tmp_path / "old_version.py"
    file.write_text(
        "import importlib.metadata as m\nreal = m.version\n"
        "m.version = lambda name: '0.0.9' if name == 'combo-avs' else real(name)\n"
    )
    return str(file)


@pytest.mark.slow
def test_workers_may_join_and_those_of_another_version_are_sent_away(
    clips: ClipStore, marks: Path, old_version: str
) -> None:
    """A scheduler without workers; an old one joins while the run is on, then a right one that does all the work."""
    made = plan(clips, seconds_per_frame=0.02, marks=str(marks))
    with own_cluster(0) as cluster:
        address = cluster.scheduler_address
        run = threading.Thread(target=run_plans, args=([made],), kwargs={"scheduler": address})
        run.start()
        first = subprocess.Popen([*WORKER, address, "--preload", old_version], stderr=subprocess.DEVNULL)
        try:
            assert first.wait(200) == 0  # it was told to go
            assert started(marks) == set()
            assert run.is_alive()
            second = subprocess.Popen([*WORKER, address], stderr=subprocess.DEVNULL)
            run.join(300)
            second.terminate()
            second.wait(30)
        finally:
            first.kill()
    assert finished(made)


def test_a_run_does_not_start_on_workers_of_another_version(clips: ClipStore, old_version: str) -> None:
    made = plan(clips)
    refused = pytest.raises(BadInput, match=r"(?s)another version.*tcp://\S+: 0\.0\.9.*install combo-avs")
    with dask.config.set({"distributed.worker.preload": [old_version]}), own_cluster(1) as cluster, refused:
        run_plans([made], scheduler=cluster.scheduler_address)
    assert len(Cache(made.path).unfinished()) == 12


def start_driver(clips: ClipStore, marks: Path, **environment: str) -> tuple[subprocess.Popen, set[int]]:
    """The command, as a process of its own, and its two workers, which are at their first shards."""
    code = "import fakes; fakes.dask_setup(None); from combo_avs.cli import main; main()"
    settings = [f"--set=precompute.generator.{s}" for s in (f"marks={marks}", "seconds_per_frame=0.3")]
    arguments = ["precompute", str(clips.path.parent), "--proposals", "fake", "--workers", "2", *settings]
    tests = Path(combo_avs.__file__).parent / "tests"
    path = os.pathsep.join([str(tests), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": path, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: process.poll() is not None or len(started(marks) - {process.pid}) == 2)
    return process, started(marks) - {process.pid}


def test_sigterm_ends_the_workers_removes_the_scratch_and_can_go_on(
    clips: ClipStore, marks: Path, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process, workers = start_driver(clips, marks, TMPDIR=str(scratch))
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == INTERRUPTED, said
    assert "run the same command again" in said
    wait_for(lambda: not any(map(alive, workers)))
    assert list(scratch.iterdir()) == []
    made = plan(clips)
    assert made.todo
    assert run_plans([made], workers=0) == {}


@pytest.mark.slow
def test_workers_do_not_outlive_a_driver_that_was_killed(clips: ClipStore, marks: Path) -> None:
    process, workers = start_driver(clips, marks)
    process.kill()
    process.communicate()
    wait_for(lambda: not any(map(alive, workers)))
    assert run_plans([plan(clips)], workers=0) == {}


@pytest.mark.slow
def test_a_scheduler_that_goes_away_ends_the_run_resumable(clips: ClipStore, marks: Path, tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    program = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard"]
    scheduler = subprocess.Popen([*program, "--scheduler-file", str(file)], stderr=subprocess.DEVNULL)
    wait_for(lambda: file.exists() and file.read_text().strip().endswith("}"))
    address = json.loads(file.read_text())["address"]
    worker = subprocess.Popen([*WORKER, address], stderr=subprocess.DEVNULL)

    def stop() -> None:
        try:
            wait_for(lambda: started(marks))
        finally:
            scheduler.kill()

    stopper = threading.Thread(target=stop)
    stopper.start()
    try:
        with pytest.raises(ComboError, match="the Dask scheduler went away") as error:
            run_plans([plan(clips, seconds_per_frame=0.3, marks=str(marks))], scheduler=address)
        assert error.value.exit_code == FAILED
    finally:
        stopper.join()
        worker.kill()
        scheduler.wait()
        worker.wait()
    assert run_plans([plan(clips)], workers=0) == {}


class TestSlurm:
    def test_the_job_script(self) -> None:
        config = SlurmConfig(
            queue="gpu",
            account="vision",
            gpus=2,
            cores=8,
            memory="64GB",
            walltime="1-12:00:00",
            directives=("--constraint=a100",),
            prologue=("module load cuda",),
        )
        with slurm_cluster(config) as cluster:
            lines = cluster.job_script().splitlines()
        asked = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")}
        assert asked == {
            "-J combo-precompute",
            "-p gpu",
            "-A vision",
            "-n 1",
            "--cpus-per-task=8",
            "--mem=60G",
            "-t 1-12:00:00",
            "--gpus-per-node=2",
            "--constraint=a100",
        }
        assert "module load cuda" in lines
        assert "--nworkers 2 " in lines[-1]
        assert "--nthreads 1 " in lines[-1]

    @pytest.mark.parametrize(
        "wrong",
        [
            {"jobs": 0},
            {"memory": "lots"},
            {"walltime": "4 hours"},
            {"directives": ["rm -rf /"]},
            {"directives": ["--ok\nrm -rf /"]},
            {"queu": "gpu"},
        ],
    )
    def test_bad_settings_are_refused(self, wrong: dict[str, object]) -> None:
        with pytest.raises(BadInput, match=f"precompute.slurm.{next(iter(wrong))}"):
            parse_config({"precompute": {"slurm": wrong}})

    @pytest.mark.slow
    def test_jobs_do_the_work_and_lost_ones_are_submitted_again(
        self, clips: ClipStore, marks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With an sbatch that starts the job here, and a job that is preempted after its first shard."""
        programs = tmp_path / "bin"
        programs.mkdir()
        (programs / "sbatch").write_text(
            "#!/bin/sh\n"
            f'script="$(mktemp -p {tmp_path})"; cat "$1" > "$script"\n'  # the file goes as soon as sbatch has ended
            'setsid sh "$script" >/dev/null 2>&1 &\n'
            'echo "Submitted batch job $!"\n'
        )
        (programs / "scancel").write_text('#!/bin/sh\nkill -- "-$1"\n')
        for program in programs.iterdir():
            program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        made = plan(clips, seconds_per_frame=0.05, marks=str(marks))

        def preempt() -> None:
            wait_for(lambda: started(marks))
            os.killpg(os.getpgid(min(started(marks))), signal.SIGKILL)

        preempting = threading.Thread(target=preempt)
        preempting.start()
        assert run_plans([made], slurm=SlurmConfig(jobs=1, gpus=0, cores=1, memory="1GB")) == {}
        preempting.join()
        assert finished(made)
        wait_for(lambda: not any(map(alive, started(marks))))
