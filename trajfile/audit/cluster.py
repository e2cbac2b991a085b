"""Tasks on a Dask cluster: of SLURM, of Kubernetes, of several cards, or of this machine.

Dask brings tasks to workers and brings them again where a worker is lost. On each worker they run
in processes of a `Pool`, as on one machine: an input that kills its process or takes too long harms
neither the worker nor the tasks beside it.
"""

from __future__ import annotations

import logging
import multiprocessing
import time
from concurrent.futures import CancelledError
from contextlib import ExitStack, suppress
from typing import Any, Self
from uuid import uuid4

from trajfile.audit.crew import Failure, Task, failure_of_task
from trajfile.audit.outcome import Settings
from trajfile.audit.pool import Pool
from trajfile.errors import ResourceError, UsageError
from trajfile.version import __version__

#: The address that stands for workers of this machine, started for the batch.
LOCAL = "local"
#: Seconds within which the scheduler is to answer, and a first worker to be there.
_ANSWER, _FIRST_WORKER = 20, 300
#: Seconds for which the number of workers is believed.
_FRESH = 5.0


class Cluster:
    """A crew of Dask workers.

    Args:
        address: Of the scheduler, as ``tcp://host:8786``; `LOCAL` for workers of this machine.
        settings: How inputs are examined.
        workers: How many workers there are to be, if they are started here.
        max_time: Seconds that one task may take; None for any.

    Raises:
        UsageError: If Dask is not installed, or an address is none.
        ResourceError: If no scheduler answers, it has no workers, or they have another version of
            this program or none.
    """

    def __init__(
        self, address: str, settings: Settings, workers: int, max_time: float | None = None
    ) -> None:
        try:
            import distributed
        except ImportError as error:
            raise UsageError(
                "a scheduler needs Dask: install it with pip install 'trajfile[cluster]'"
            ) from error
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what is lost is told here
        self.address = address
        self._name = f"trajfile-audit-{uuid4().hex}"
        self._counted = (0.0, 1)
        self._local: Any = None
        with ExitStack() as stack:
            if address == LOCAL:
                address = self._local = stack.enter_context(
                    distributed.LocalCluster(  # type: ignore[no-untyped-call]  # untyped there
                        n_workers=workers,
                        threads_per_worker=1,
                        processes=True,
                        host="127.0.0.1",
                        dashboard_address="127.0.0.1:0",  # that it is there is of no harm
                        silence_logs=logging.CRITICAL,
                    )
                )
            self._client: Any = stack.enter_context(self._connected(address))
            self._prepare(settings, max_time)
            self._stack = stack.pop_all()

    def _connected(self, address: Any) -> Any:
        from distributed import Client

        try:
            return Client(address, timeout=_ANSWER, set_as_default=False)  # type: ignore[no-untyped-call]  # untyped there
        except (OSError, TimeoutError) as error:
            raise ResourceError(f"no scheduler answers at {address}: {_last(error)}") from error
        except ValueError as error:
            raise UsageError(f"{address} is no address of a scheduler: {_last(error)}") from error

    def _prepare(self, settings: Settings, max_time: float | None) -> None:
        try:
            self._client.wait_for_workers(1, timeout=_FIRST_WORKER)
        except TimeoutError as error:
            raise ResourceError(
                f"the scheduler at {self.address} has no workers: start some, as with "
                f"dask worker {self.address}"
            ) from error
        hands = _hands(self._name, settings, max_time)
        try:
            self._client.register_plugin(hands, name=self._name)
        except Exception as error:
            raise ResourceError(
                f"the workers of {self.address} cannot take part: {_last(error)}; install "
                f"trajfile {__version__} in their environment"
            ) from error

    @property
    def width(self) -> int:
        """How many tasks the workers take at a time; they may come and go."""
        when, count = self._counted
        if time.monotonic() - when > _FRESH:
            with suppress(Exception):  # as long as the scheduler does not answer
                count = sum(self._client.nthreads().values())
            self._counted = time.monotonic(), count
        return count

    def submit(self, task: Task, *arguments: Any) -> Any:
        """Hand a task in."""
        return self._client.submit(_on_worker, self._name, task, *arguments, pure=False)

    def result(self, ticket: Any) -> Any:
        """The result of a task that is done.

        Args:
            ticket: The task.

        Returns:
            What it returned.

        Raises:
            TaskFailed: If it came to no result.
            ResourceError: If the scheduler is gone.
        """
        from distributed.scheduler import KilledWorker

        try:
            return ticket.result(timeout=_ANSWER)
        except (CancelledError, TimeoutError, OSError) as error:
            raise ResourceError(
                f"the scheduler at {self.address} is gone; --resume goes on from here"
            ) from error
        except Exception as error:
            lost: tuple[Failure, str] = ("died", "every worker that took it was lost")
            failure = failure_of_task(error, {KilledWorker: lost})
            raise failure from error

    def kept(self, ticket: Any) -> Any:
        """The ticket: the result stays with the workers."""
        if ticket.status != "finished":
            self.result(ticket)
        return ticket

    def __enter__(self) -> Self:
        """The cluster."""
        return self

    def __exit__(self, *error: object) -> None:
        """End what was started for this batch."""
        with suppress(Exception):  # the scheduler may be gone
            self._client.unregister_worker_plugin(self._name)
        self._stack.close()


def _hands(name: str, settings: Settings, max_time: float | None) -> Any:
    """What every worker is given, also one that joins later: processes to work with."""
    from distributed import WorkerPlugin

    class Hands(WorkerPlugin):
        def __init__(self) -> None:
            self.name = name
            self.version = __version__
            self.pool: Pool | None = None

        def setup(self, worker: Any) -> None:
            from trajfile.audit.cluster import prepared

            self.pool = prepared(settings, worker.state.nthreads, max_time, self.version)

        def teardown(self, worker: Any) -> None:
            del worker
            if self.pool is not None:
                self.pool.close()

    return Hands()


def prepared(settings: Settings, threads: int, max_time: float | None, version: str) -> Pool:
    """The processes of a worker.

    Args:
        settings: How inputs are examined.
        threads: How many tasks the worker takes at a time.
        max_time: Seconds that one task may take.
        version: That of the program which hands the tasks out.

    Returns:
        The processes.

    Raises:
        ResourceError: If the worker has another version of this program.
    """
    if version != __version__:
        raise ResourceError(f"a worker has trajfile {__version__}, here is {version}")
    # Dask's nanny marks workers as processes that may have no children, lest they outlive them;
    # these end by themselves when the worker is gone.
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    return Pool(settings, threads, max_time)


def _on_worker(name: str, task: Task, *arguments: Any) -> Any:
    """Run a task in one of the processes of the worker."""
    from distributed import get_worker

    hands: Any = get_worker().plugins[name]
    pool: Pool = hands.pool
    return pool.result(pool.submit(task, *arguments))


def _last(error: BaseException) -> str:
    """The last line of an error, which says most."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
