"""One run, from an experiment and a folder to a trained state."""

import contextlib
import dataclasses
from collections.abc import Iterator

from memjax import backend, config, configs, data, hosts, provenance, workdirs
from memjax.config import Experiment
from memjax.data import Dataset
from memjax.data.files import user_path
from memjax.errors import InputError, WriteError
from memjax.training import TrainState

from . import devices
from .checks import (
    check_data,
    check_fields,
    check_idle,
    check_model,
    check_same,
    check_workdir,
    prepared,
)
from .loop import Loop
from .replicas import folders
from .shares import Shares
from .signals import collected


def run(
    experiment: Experiment | str,
    workdir: str,
    *,
    data_dir: str | None = None,
    stop_at_step: int | None = None,
) -> TrainState:
    """Train an experiment, or go on with it where its workdir holds a part of it.

    The same call resumes: a run that was stopped at any step ends in the same bits as one that was
    not, on the same machine.

    Where several processes have found each other (`memjax.hosts`), all of them call this, with the
    same arguments and a workdir that all of them see.

    Args:
        experiment: an Experiment, or the name of one.
        workdir: where config, checkpoints and logs go; any address that etils.epath opens.
        data_dir: folder with `<name>.npz` files, see `data.load`.
        stop_at_step: leave off after that step, as a signal would.

    Returns:
        The trained state; with `train.num_seeds` above 1 its arrays have another axis in front. Of
        what the devices of several processes share it has this process's part.

    Raises:
        InputError: bad data, a field out of range, or a workdir that holds another run, that
            another process is in, or none of whose checkpoints is whole.
        WriteError: the disk is full; the last complete checkpoint is as it was.
        NonFiniteError: objective, gradient or state are infinite or not a number.
        Stopped: SIGTERM or SIGINT arrived; the state is saved.
    """
    if isinstance(experiment, str):
        experiment = configs.get(experiment)
    if experiment.dataset.endswith(".npz"):
        # So that evaluation finds it from any folder.
        own = user_path(experiment.dataset).resolve()
        experiment = dataclasses.replace(experiment, dataset=str(own))
    with hosts.refused_together():
        check_fields(experiment)
        if stop_at_step is not None and not (isinstance(stop_at_step, int) and stop_at_step >= 1):
            raise InputError(f"stop_at_step: found {stop_at_step}, expected at least 1")
        if hosts.is_first():
            check_workdir(experiment, workdir)
            check_idle(experiment, workdir)
        backend.configure()
        backend.forget_programs()
        dataset = data.load(
            experiment.dataset,
            data_dir,
            merge_validation=experiment.data.merge_validation,
            split_order=experiment.data.split_order,
            split_seed=experiment.data.split_seed,
        )
        check_data(experiment, dataset)
        experiment = fit_to_data(experiment, dataset)
        start = devices.make_start(experiment, dataset)
        check_model(experiment, dataset, start)
        used = devices.choose(
            experiment.train.batch_size,
            experiment.sampler.together,
            getattr(experiment.model, "shared_blocks", 0),
        )
        shares = Shares.of(experiment, used)
    hosts.check_same(
        **config.fields_of(experiment),
        stop_at_step=stop_at_step,
        data_sha256=dataset.digest(),
        versions=provenance.versions(),
    )
    every = {workdir: experiment} | folders(experiment, workdir)
    with contextlib.ExitStack() as stack:
        with hosts.refused_together():
            if hosts.is_first():
                for folder, one in every.items():
                    check_same(one, dataset, folder)
                for folder, one in every.items():
                    stack.enter_context(prepared(one, dataset, folder))
        with hosts.refused_together():
            if not hosts.is_first():  # the workdir has to be one that all processes see
                workdirs.check_same_run(experiment, workdir)
        with collected() as signals:
            with hosts.refused_together():
                loop = Loop(experiment, dataset, workdir, shares, start)
            with _closed_after(loop):
                return loop.train(signals, stop_at_step)


@contextlib.contextmanager
def _closed_after(loop: Loop) -> Iterator[None]:
    """Wait for the checkpoints and flush the logs, unless it has to end at once."""
    try:
        yield
    except BaseException as error:
        # Of several processes it would wait for the others.
        if not isinstance(error, KeyboardInterrupt) and not hosts.ends_alone(error):
            with contextlib.suppress(*([WriteError] if isinstance(error, WriteError) else [])):
                loop.close()
        raise
    loop.close()


def fit_to_data(experiment: Experiment, dataset: Dataset) -> Experiment:
    """The experiment with the model's image shape and precision filled in."""
    model = experiment.model.clone(
        image_shape=dataset.image_shape, precision=experiment.train.precision
    )
    return dataclasses.replace(experiment, model=model)
