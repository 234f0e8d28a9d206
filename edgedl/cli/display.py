"""What a long command shows while it works: a line per step on stderr, with a moving bar on a terminal."""

from __future__ import annotations

import shutil
import sys
import threading
import time

import click

SPIN = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
BAR = 24


class Display:
    """A pipeline Listener for people. On a terminal the running step is redrawn in place, elsewhere it is one line when done."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.live = not quiet and sys.stderr.isatty()
        self.lock = threading.Lock()
        self.step = ""
        self.started = 0.0
        self.state = (0, 0, "")
        self.stop = threading.Event()
        if self.live:
            threading.Thread(target=self._spin, daemon=True).start()

    def begin(self, step: str) -> None:
        """A step starts."""
        with self.lock:
            self.step, self.started, self.state = step, time.monotonic(), (0, 0, "")

    def progress(self, done: int, total: int, text: str) -> None:
        """How far the running step is."""
        self.state = (done, total, text)

    def end(self, step: str, detail: str, seconds: float, reused: bool) -> None:
        """A step is done."""
        with self.lock:
            self.step = ""
            how = "reused" if reused else f"{seconds:.1f} s"
            self._line(f"  {click.style('✓', fg='green')} {step:<28} {how:>8}  {detail}".rstrip())

    def warn(self, text: str) -> None:
        """Something the user should know."""
        with self.lock:
            self._line(f"  {click.style('!', fg='yellow', bold=True)} {text}")

    def close(self) -> None:
        """Clear the moving line."""
        self.stop.set()
        with self.lock:
            self.step = ""
            if self.live:
                click.echo("\r\033[K", nl=False, err=True)

    def _line(self, text: str) -> None:
        if not self.quiet:
            click.echo(("\r\033[K" if self.live else "") + text, err=True)

    def _spin(self) -> None:
        turn = 0
        while not self.stop.wait(0.1):
            turn += 1
            with self.lock:
                if self.step:
                    click.echo(f"\r\033[K  {SPIN[turn % len(SPIN)]} {self._running()}", nl=False, err=True)

    def _running(self) -> str:
        done, total, text = self.state
        elapsed = time.monotonic() - self.started
        bar = ""
        if total:
            full = BAR * done // total
            bar = f"{'█' * full}{'░' * (BAR - full)} {done}/{total} "
        width = shutil.get_terminal_size().columns - 5
        return f"{self.step:<28} {elapsed:7.1f} s  {bar}{text}"[:width]
