"""How a command of ours begins and ends: settings that nobody knows, one-paragraph errors, exit codes."""

import contextlib
import errno
import gc
import logging
import os
import re
import select
import sys
from collections.abc import Callable, Iterator
from functools import wraps
from importlib.util import find_spec
from typing import Any, NoReturn

import hydra
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

import tracks.command.config  # noqa: F401  (registers the schemas and what conf/variants.yaml names)
from eval.errors import ScoringInputError
from models.errors import ModelInputError
from models.interrupted import INTERRUPTED, begun
from tracks.command.settings import CONF, check_settings, explain_settings
from tracks.command.text_settings import keep_text
from tracks.errors import TrackInputError

USER_ERRORS = (TrackInputError, ModelInputError, ScoringInputError)
EXIT_BAD_INPUT = 2
EXIT_NO_READER = 128 + 13
"""What a shell shows for a program that ends because nobody reads its output any more (SIGPIPE)."""
TRACEBACK_VARIABLE = "VANDKIT_TRACEBACK"
VARIABLE = re.compile(
    r"(?<![\w/])(ARGS|OUT|ROOT|DATA|MODELS?|WEIGHTS|SHOTS|RUN|A|B|IMAGES|REFERENCES|CATEGORY|PROMPT)="
)
"""Those of the Makefile that messages name."""
QUOTED = re.compile(r'\bARGS="((?:[^"\\]|\\.)*)"')
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def command(config_name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], Any]]:
    """Make a task the Hydra application of conf/<config_name>.yaml, its errors reported as `reports_errors` does."""

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], Any]:
        @wraps(task)
        def checked(cfg: DictConfig) -> Any:
            check_settings(cfg)
            return task(cfg)

        main = hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(reports_errors(checked))
        main.config_name = config_name
        return main

    return decorate


def run_main(hydra_main: Callable[[], Any]) -> None:
    """Run a function made by `command`: bad settings end in one paragraph and exit code 2."""
    begun()
    gc.freeze()  # what was imported stays
    gc.enable()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    print_any_name()
    sys.argv[1:] = [keep_text(argument) for argument in sys.argv[1:]]
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # lets Hydra's errors reach the lines below
    reports_errors(hydra_main)()


def print_any_name() -> None:
    r"""Let names be printed that the output's encoding (ascii, cp1252) lacks, or that are not UTF-8: as \u escapes."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # closed, or somebody's own object
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def reports_errors(task: Callable[..., Any]) -> Callable[..., Any]:
    """Turn an error that the user can mend into one paragraph on stderr and exit code 2.

    Where nobody reads the output any more (`| head`), end without a word. Set VANDKIT_TRACEBACK=1 to see the traceback
    instead.
    """

    @wraps(task)
    def wrapper(*arguments: Any) -> Any:
        try:
            result = task(*arguments)
            if sys.stdout:
                sys.stdout.flush()
        except KeyboardInterrupt:
            stop(INTERRUPTED)
        except Exception as error:
            unread = [_nobody_reads(stream) for stream in (sys.stdout, sys.stderr)]
            if isinstance(error, BrokenPipeError) and any(unread):
                sys.exit(EXIT_NO_READER)
            message = explain(error, getattr(task, "config_name", ""))
            if message is None or os.environ.get(TRACEBACK_VARIABLE):
                raise
            stop(message)
        return result

    return wrapper


def stop(message: str) -> NoReturn:
    """Print one paragraph on stderr and leave with exit code 2."""
    print(f"error: {message if os.environ.get('MAKELEVEL') else without_make(message)}", file=sys.stderr)
    sys.exit(EXIT_BAD_INPUT)


def without_make(message: str) -> str:
    """A message that names make's targets and variables, in the words of `vandkit` itself."""
    message = message.replace("make submission", "vandkit submit").replace("make weights WEIGHTS=", "vandkit weights ")
    message = re.sub(r"\bmake (?=[a-z-]+(`| [A-Z]+=))", "vandkit ", message)
    message = QUOTED.sub(lambda found: found[1].replace('\\"', '"'), message)
    return VARIABLE.sub(lambda found: "" if found[0] == "ARGS=" else found[0].lower(), message)


def explain(error: BaseException, config_name: str = "") -> str | None:
    """The paragraph for an error that the user can mend, None for a fault of the program.

    Looks through the errors that Hydra and others wrap around what was raised (`raise ... from`), never at an error
    that was being handled when a fault happened. `config_name` is that of the command, for the settings it knows.
    """
    for link in _causes(error):
        if isinstance(link, USER_ERRORS):
            return str(link)
        if message := _not_found(link):
            return message
        if isinstance(link, HydraException | OmegaConfBaseException):
            if not isinstance(link, InstantiationException) and (message := explain_settings(link, config_name)):
                return message
        elif message := _of_system(link):
            return message
    return None


def _not_found(error: BaseException) -> str | None:
    """The paragraph for a class of the user's own whose module is not on the path."""
    found = re.match(r"Error locating target '((\w+)\.[^']*)'", str(error))
    if not found or not isinstance(error, InstantiationException) or find_spec(found[2]):
        return None
    return (
        f"expected {found[1]} in a module {found[2]}, found none; name the folder that holds it: PYTHONPATH=folder "
        "before the command (Windows: `set PYTHONPATH=folder` first)"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__


def _of_system(error: BaseException) -> str | None:
    """The paragraph for what the disk, a path, an encoding or the memory refuses."""
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return (
            f"expected room on the disk for {error.filename or 'the output'}, got: {error.strerror}; free some space "
            "(or choose another disk with OUT=...) and run the same command again: what is done is kept"
        )
    if isinstance(error, OSError) and error.filename is not None:
        path = error.filename if error.filename2 is None else error.filename2
        in_the_way = isinstance(error, FileExistsError | NotADirectoryError)
        reason = "a file where a folder is needed" if in_the_way else error.strerror or error
        return f"expected to be able to use {path}, got: {reason}; choose another path, or mend this one"
    if isinstance(error, UnicodeEncodeError):
        return (
            f"expected a name that can be written in {error.encoding}, got {error.object[:200]!r}; rename it, or set "
            "PYTHONUTF8=1 where the system's encoding is not UTF-8"
        )
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # the latter is torch's, of a GPU
        return (
            f"expected memory for the work, got: {str(error).partition('.')[0] or 'none left'}; use ARGS=batch_size=1, "
            "a smaller resolution, fewer references or another device"
        )
    return None


def _nobody_reads(stream: Any) -> bool:
    """Whether the reader of a stream has gone; what is left in one that takes nothing more goes nowhere."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        gone = any(event & select.POLLERR for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):  # none, closed, not a file; or Windows, which does not say
        return False
    takes_nothing = gone
    try:
        stream.flush()
    except OSError:
        takes_nothing = True
    if takes_nothing:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return gone
