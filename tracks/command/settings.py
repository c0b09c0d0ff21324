"""Settings on a command line that nothing reads, or that cannot be read: refused in our words, not in Hydra's."""

import inspect
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.utils import get_object
from omegaconf import BooleanNode, DictConfig, FloatNode, IntegerNode, ListConfig, OmegaConf, StringNode
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from models.errors import hint
from tracks.command.names import listed, unknown
from tracks.errors import TrackInputError

CONF = Path(__file__).resolve().parents[2] / "conf"
VARIABLES = {"data.root": "ROOT=folder", "model.root": "ROOT=folder"}
"""How a setting without a value is given to make, where it has a variable of its own."""
KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list, like [a,b]",
    dict: "key: value pairs",
}
KINDS_OF_SCHEMA: dict[Any, str] = {
    IntegerNode: KINDS[int],
    FloatNode: KINDS[float],
    BooleanNode: KINDS[bool],
    ListConfig: KINDS[list],
    StringNode: "one value, without brackets",
}
"""The same where a schema says the kind."""

ONE_PATH = (
    "out",
    "outputs",
    "root",
    "references",
    "product",
    "add",
    "ok",
    "defect",
    "archive",
    "a",
    "b",
    "cache_dir",
    "table",
)
"""Settings (the last part of their keys) that hold one path or name, also where there is none by default."""
ONE_OR_SEVERAL = ("shots", "seeds")
"""Settings that are a list by default and may be one number as well."""
NUMBER_OR_WORD = ("resolution",)
"""Settings that are a number by default and may be a word as well; whoever reads them checks them."""
IN_OUR_WORDS = {
    r"An item is already at '([^']+)'": "expected {0}=... without the +, which is for settings that are not there yet",
    r"Could not delete from config\. '([^']+)'": "expected to take away a setting that is there, got ~{0}",
    r"Multiple values for (\S+)\.": "expected {0}=name without the +: there is one already, which it replaces",
    r"Ambiguous value for argument '([^'=]+)=([^']*)'": "expected one value for {0}, got {1}; a list is [{1}], text "
    "with commas stands in quotes, and several runs are for `make sweep`",
}
"""What Hydra says (as a pattern), and what we say."""


def check_settings(cfg: DictConfig) -> None:
    """Refuse added settings (`+key=value`) that nothing reads, and values of another kind than the setting's own.

    Raises:
        TrackInputError: naming the setting, and the nearest that is read.
    """
    if not (HydraConfig.initialized() and GlobalHydra.instance().is_initialized()):  # called from Python
        return
    chosen = HydraConfig.get()
    words = OmegaConf.to_container(chosen.overrides.task, resolve=False)
    overrides = OverridesParser.create().parse_overrides(words)  # type: ignore[arg-type]
    given = [each for each in overrides if not _is_choice(each, chosen.runtime.choices)]
    if not given:
        return
    choices = [each.input_line or "" for each in overrides if each not in given]
    base = compose(chosen.job.config_name, choices)
    for each in given:
        key = each.key_or_group
        if each.is_add() or each.is_force_add():
            _refuse_unread(base, key)
        elif not each.is_delete():
            _check_kind(key, _value(base, key), _value(cfg, key))


def explain_settings(error: HydraException | OmegaConfBaseException, config_name: str) -> str | None:
    """What an error of Hydra or OmegaConf says of the settings, in our words; None for a fault of the program."""
    text = " ".join(str(error).split())
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return str(unknown(group, name, error.options))
    if isinstance(error, OverrideParseException):
        return (
            f"expected settings as key=value, got {error.override!r}, which cannot be read; put a value with blanks, "
            'commas, brackets or quotes into quotes of its own: ARGS="\'key=\\"a, b\\"\'"'
        )
    if found := re.search(r"Could not override '([^']+)'", text):
        return _not_known(found[1], config_name)
    for pattern, words in IN_OUR_WORDS.items():
        if found := re.search(pattern, text):
            return words.format(*found.groups())
    if isinstance(error, MissingMandatoryValue):
        key = error.full_key or "a setting"
        return f"expected a value for {key}, got none; give it with {VARIABLES.get(key, f'ARGS={key}=...')}"
    if isinstance(error, ValidationError):
        kind = KINDS_OF_SCHEMA.get(type(error.child_node))
        if not (kind and error.full_key):
            return f"expected {error.full_key or 'a setting'} of the right kind, got: {str(error).splitlines()[0]}"
        return f"expected {error.full_key} to be {kind}, got {'null' if error.value is None else repr(error.value)}"
    if isinstance(error, InterpolationResolutionError):
        return f"expected {error.full_key or 'a setting'} to have a value, got: {str(error).splitlines()[0]}"
    if isinstance(error.__cause__, OmegaConfBaseException) and isinstance(error, HydraException):
        return explain_settings(error.__cause__, config_name) or _generic(text)
    return None if isinstance(error, ConfigAttributeError | ConfigKeyError) else _generic(text)


def _generic(text: str) -> str:
    return f"expected settings that the configuration knows, got: {text.partition(' See https:')[0]}"


def _not_known(key: str, config_name: str) -> str:
    """The paragraph for a setting that the command does not have."""
    base = _composed_by_choices(config_name)
    known = list(_keys(base, key.split("."))) if base is not None else []
    return str(unknown("a setting", key, known)) if known else f"expected a setting that is known, got {key!r}"


def _composed_by_choices(config_name: str) -> DictConfig | None:
    """The configuration that the command line chooses, before it sets any value; None where that is not to be had."""
    if not config_name or GlobalHydra.instance().is_initialized():
        return None
    words = [word for word in sys.argv[1:] if (CONF / word.partition("=")[0]).is_dir()]
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose(config_name, words)
    except (HydraException, OmegaConfBaseException):
        return None


def _is_choice(override: Override, choices: Mapping[str, Any]) -> bool:
    """Whether an override chooses a file of conf/, not a value."""
    key = override.key_or_group
    return "/" in key or "@" in key or key in choices


def _value(cfg: DictConfig, key: str) -> Any:
    """The value of a key; None where it has none, or none yet."""
    try:
        value = OmegaConf.select(cfg, key)
    except OmegaConfBaseException:
        return None
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _check_kind(key: str, default: Any, given: Any) -> None:
    """Refuse a value that cannot stand where the default stands; whole numbers count as numbers, 0 and 1 as truth."""
    if isinstance(given, float) and math.isnan(given) and not isinstance(default, str):
        raise TrackInputError(f"expected {key} to be a number, got nan; leave it out or give a number")
    if isinstance(given, list | dict) and (
        key.rpartition(".")[2] in ONE_PATH or (isinstance(default, str) and default and key != "run")
    ):
        raise TrackInputError(f"expected one value for {key}, got {given!r}; give one, without brackets")
    if default in (None, "") or given is None or key in NUMBER_OR_WORD:
        return
    allowed: dict[type, tuple[type, ...]] = {
        bool: (bool, int),
        int: (int, float) if "." in key else (int,),
        float: (int, float),
        list: (list, int) if key in ONE_OR_SEVERAL else (list,),
        dict: (dict,),
    }
    kind = type(default)
    if kind in allowed and (not isinstance(given, allowed[kind]) or (isinstance(given, bool) and kind in (int, float))):
        raise TrackInputError(f"expected {key} to be {KINDS[kind]} (by default {default}), got {given!r}")


def _refuse_unread(base: DictConfig, key: str) -> None:
    """Refuse a key that was added although neither a constructor nor another setting reads it."""
    if re.search(rf"oc\.select:{re.escape(key)}[,}}]", OmegaConf.to_yaml(base)):
        return
    parts = key.split(".")
    known = list(_keys(base, parts))
    if not known or key in known:
        return
    raise TrackInputError(
        f"expected an added setting that something reads, got {key!r}; known are {listed(known)}{hint(key, known)}"
    )


def _keys(base: DictConfig, parts: Sequence[str]) -> Iterator[str]:
    """The keys that may stand where `parts` leave the configuration, in full; none where any may.

    A constructor takes its parameters, an empty mapping and one of mappings (a table of products) anything.
    """
    node: Any = base
    above: list[str] = []
    for part in parts:
        inner = node.get(part) if not OmegaConf.is_missing(node, part) else None
        if not isinstance(inner, DictConfig):
            break
        node, above = inner, [*above, part]
    names = [str(name) for name in node]
    if "_target_" in names:
        names += [name for name in inspect.signature(get_object(node._target_)).parameters if name not in names]
    elif above and all(isinstance(node._get_node(name), DictConfig) for name in names):
        return
    yield from (".".join([*above, name]) for name in names if not name.startswith("_"))
