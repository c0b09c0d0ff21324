"""How a command of ours begins and ends: unknown names, one-paragraph errors, exit codes."""

import difflib
import errno
import logging
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from eval.errors import ScoringInputError
from models.errors import ModelInputError
from tracks.errors import TrackInputError
from tracks.text_settings import keep_text

CONF = Path(__file__).resolve().parent.parent / "conf"
USER_ERRORS = (TrackInputError, ModelInputError, ScoringInputError)
EXIT_BAD_INPUT = 2
TRACEBACK_VARIABLE = "VANDKIT_TRACEBACK"


def command(config_name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], Any]]:
    """Make a task the Hydra application of conf/<config_name>.yaml, its errors reported as `reports_errors` does."""

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], Any]:
        return hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(reports_errors(task))

    return decorate


def run_main(hydra_main: Callable[[], Any]) -> None:
    """Run a function made by `command`: bad settings end in one paragraph and exit code 2."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    check_choices(sys.argv[1:])
    sys.argv[1:] = [keep_text(argument) for argument in sys.argv[1:]]
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # lets Hydra's errors reach the lines below
    reports_errors(hydra_main)()


def reports_errors(task: Callable[..., Any]) -> Callable[..., Any]:
    """Turn an error that the user can mend into one paragraph on stderr and exit code 2.

    Set VANDKIT_TRACEBACK=1 to see the traceback instead.
    """

    @wraps(task)
    def wrapper(*arguments: Any) -> Any:
        try:
            return task(*arguments)
        except KeyboardInterrupt:
            stop("interrupted; what is done is kept, the same command continues from here")
        except Exception as error:
            message = explain(error)
            if message is None or os.environ.get(TRACEBACK_VARIABLE):
                raise
            stop(message)

    return wrapper


def stop(message: str) -> NoReturn:
    """Print one paragraph on stderr and leave with exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(EXIT_BAD_INPUT)


def explain(error: BaseException) -> str | None:
    """The paragraph for an error that the user can mend, None for a fault of the program.

    Looks through the errors that Hydra wraps around what a constructor raised.
    """
    chain = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None and inner not in chain:
        chain.append(inner)
    for link in chain:
        if isinstance(link, USER_ERRORS):
            return str(link)
        if isinstance(link, OSError) and link.errno in (errno.ENOSPC, errno.EDQUOT):
            return (
                f"expected room on the disk for {link.filename or 'the output'}, got: {link.strerror}; free some space "
                "(or choose another disk with OUT=...) and run the same command again: what is done is kept"
            )
        if isinstance(link, PermissionError | NotADirectoryError):
            return f"expected to be able to use {link.filename}, got: {link.strerror}; choose another path"
    if isinstance(error, HydraException | OmegaConfBaseException) and not isinstance(error, InstantiationException):
        return "expected settings that the configuration knows, got: " + " ".join(str(error).split())
    return None


def check_choices(arguments: list[str], conf: Path = CONF) -> None:
    """Refuse `group=name` where conf/<group> has no such file, naming the nearest one (exit code 2)."""
    groups = {folder.name for folder in conf.iterdir() if folder.is_dir()}
    for argument in arguments:
        group, _, value = argument.lstrip("+").partition("=")
        if group not in groups or not value:
            continue
        known = sorted(path.stem for path in (conf / group).glob("*.yaml"))
        for name in value.split(","):
            if name not in known and name != "null":
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                stop(f"expected {group} to be one of {', '.join(known)}, got {name!r}{hint}")
