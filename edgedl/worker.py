"""A child process that runs one job at a time with a time and a memory limit.

Conversions, quantizers and files from outside run here: a crash, a hang or a runaway allocation there is one error
message here. The child is kept between jobs, so that a framework is imported once. Jobs and results are JSON, one
line each, over a pair of pipes of their own; what libraries print is kept (its end) for the error message.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from .errors import EdgedlError, OutputError, WorkerError, from_json
from .registry import resolve

Progress = Callable[[int, int, str], None]
GIB = 1 << 30
POLL_S = 0.1
LOG_LINES = 200


def default_memory_bytes() -> int:
    """Three quarters of the machine's memory, at least 1 GiB."""
    return max(GIB, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4)


@dataclass(slots=True)
class Worker:
    """Runs `call`s in one child process, started at the first call and again after a failure.

    `timeout_s` is the limit of one job; `memory_bytes` the limit of the child's resident memory.
    """

    timeout_s: float = 900.0
    memory_bytes: int = field(default_factory=default_memory_bytes)
    on_progress: Progress | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    _child: _Child | None = None

    def call(self, function: str, **arguments: Any) -> Any:
        """Run `"module:function"` with JSON arguments in the child; returns its JSON result.

        Raises the EdgedlError the function raised, or WorkerError for a crash, a time-out or too much memory.
        """
        if self._child is None:
            self._child = _Child(self.env)
        done = False
        try:
            answer = self._child.ask(function, arguments, self)
            done = True
        finally:
            if not done:
                self.close()
        if "error" in answer:
            raise from_json(answer["error"])
        return answer["result"]

    def close(self) -> None:
        """End the child at once."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Child:
    """The parent's side of one child process."""

    def __init__(self, env: Mapping[str, str]) -> None:
        jobs_read, jobs_write = os.pipe()
        answers_read, answers_write = os.pipe()
        command = [sys.executable, "-c", "from edgedl.worker import serve; serve()", str(jobs_read), str(answers_write)]
        self.temporary = tempfile.mkdtemp(prefix="edgedl-worker-")  # what a killed child leaves goes with it
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(jobs_read, answers_write),
            start_new_session=True,
            env={**os.environ, "TMPDIR": self.temporary, **env},
        )
        os.close(jobs_read)
        os.close(answers_write)
        self.jobs = os.fdopen(jobs_write, "w", encoding="utf-8")
        self.answers = answers_read
        self.buffer = b""
        self.log: deque[str] = deque(maxlen=LOG_LINES)
        assert self.process.stdout is not None
        self.drain = threading.Thread(target=_keep_tail, args=(self.process.stdout, self.log), daemon=True)
        self.drain.start()

    def ask(self, function: str, arguments: Mapping[str, Any], limits: Worker) -> dict[str, Any]:
        with contextlib.suppress(BrokenPipeError):  # a dead child is reported below
            self.jobs.write(json.dumps({"function": function, "arguments": arguments}) + "\n")
            self.jobs.flush()
        deadline = time.monotonic() + limits.timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self.answers, selectors.EVENT_READ)
            while True:
                if selector.select(POLL_S):
                    for message in self.read():
                        if "progress" not in message:
                            return message
                        if limits.on_progress is not None:
                            limits.on_progress(*message["progress"])
                if time.monotonic() > deadline:
                    raise self.failure(
                        function, f"took longer than {limits.timeout_s:g} s", "raise the limit with --timeout"
                    )
                used = resident_bytes(self.process.pid)
                if used > limits.memory_bytes:
                    took = f"took more than {limits.memory_bytes / GIB:.1f} GiB of memory"
                    raise self.failure(function, took, "use less data, or a machine with more memory")

    def read(self) -> list[dict[str, Any]]:
        """The whole lines that have arrived. Raises WorkerError when the child is gone."""
        data = os.read(self.answers, 1 << 16)
        if not data:
            self.process.wait()
            self.drain.join(timeout=1)
            raise self.failure("", _ending(self.process.returncode), "run again with --debug to see all it printed")
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def failure(self, function: str, why: str, next: str) -> WorkerError:
        name = f" ({function.partition(':')[2]})" if function else ""
        last = last_words(self.log)
        return WorkerError(f"a step in a child process{name} {why}{last and ': ' + last}", next=next)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):
            self.jobs.close()
        os.close(self.answers)
        shutil.rmtree(self.temporary, ignore_errors=True)


def _keep_tail(stream: IO[bytes], log: deque[str]) -> None:
    """Keep the last lines of what the child prints; a line's length is limited too. EDGEDL_DEBUG shows it all."""
    show = bool(os.environ.get("EDGEDL_DEBUG"))
    while line := stream.readline(4096):
        text = line.decode("utf-8", "replace").rstrip()
        log.append(text)
        if show:
            print(text, file=sys.stderr)
    stream.close()


def last_words(log: deque[str]) -> str:
    """The last line that says something: an exception's, rather than a traceback's or what Keras appends to it.

    >>> last_words(deque(["Traceback (most recent call last):", "  File 'x'", "ValueError: bad", ""]))
    'ValueError: bad'
    """
    lines = (re.sub(r"\x1b\[\d*m", "", line) for line in reversed(log))
    said = (line.strip() for line in lines if line.strip() and not line.startswith((" ", "Arguments received by")))
    return next(said, "")[:300]


def _ending(code: int) -> str:
    """How a process ended, in words.

    >>> _ending(-11)
    'crashed (SIGSEGV)'
    """
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name
    return f"crashed ({name})" if name != "SIGKILL" else "was killed (SIGKILL, perhaps for lack of memory)"


def resident_bytes(pid: int) -> int:
    """Resident memory of a process in bytes; 0 where the system does not tell."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


# --- the child's side

SHORT_WRITES = {  # how numpy and HDF5 say that the disk is full, in an OSError without a number
    "requested and": "No space left on device",
    "No space left on device": "No space left on device",
}

_answers: IO[str] | None = None
_PR_SET_PDEATHSIG = 1


def progress(done: int, total: int, text: str = "") -> None:
    """Tell the parent how far the job is; outside a child it does nothing."""
    if _answers is not None:
        _send({"progress": [done, total, text]})


def _send(message: Mapping[str, Any]) -> None:
    assert _answers is not None
    _answers.write(json.dumps(message) + "\n")
    _answers.flush()


def serve() -> None:
    """The child's loop: argv holds the two pipes; ends when the parent does."""
    global _answers
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    jobs, answers = sys.argv[1:]
    _answers = os.fdopen(int(answers), "w", encoding="utf-8")
    with os.fdopen(int(jobs), encoding="utf-8") as lines:
        for line in lines:
            job = json.loads(line)
            _send(_run(job["function"], job["arguments"]))


def _run(function: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to one job. Anything but an EdgedlError or a failed write ends the child with its traceback."""
    try:
        return {"result": resolve(function)(**arguments)}
    except EdgedlError as error:
        return {"error": error.to_json()}
    except OSError as error:
        reason = error.strerror or next((r for sign, r in SHORT_WRITES.items() if sign in str(error)), None)
        if reason is None:
            raise
        where = f" {error.filename}" if error.filename else ""
        told = OutputError(f"cannot read or write{where}: {reason}", next="check space and permissions, then run again")
        return {"error": told.to_json()}
