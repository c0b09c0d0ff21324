"""Settings that are text stay as they are written: a category called `1.10`, `1_0`, `null` or `nut#1` is no number.

On the command line Hydra reads `data.category=1.10` as the number 1.1, and YAML does the same in a file. For the keys
in `TEXT_KEYS` both are put in quotes before they are read.
"""

import io
import os
import re
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import ListConfig, OmegaConf

NAMES = ("name", "category")
"""Here even `null` is text: there is always a name."""
TEXT_KEYS = frozenset((
    *NAMES, "categories", "validation_categories", "defects", "target", "trained_on", "normal_folders", "extensions",
    "root", "images", "references", "product", "add", "ok", "defect",
    "exclude", "normal_dir", "abnormal_dir", "mask_dir", "normal_test_dir", "meta",
    "out", "outputs", "run", "a", "b", "ids", "samples", "threshold_run", "cache_dir", "image_name", "image_column",
    "roi", "folder", "check",
))  # fmt: skip
"""The last part of the keys whose values are names, words or paths."""
LIST_KEYS = frozenset((
    "categories", "validation_categories", "defects", "exclude", "metrics", "models", "only", "runs", "trained_on",
    "unrotated", "weight_files",
))  # fmt: skip
"""The last part of the keys whose values are lists of names; one name alone is a list of one."""
FUNCTIONS = "choice|range|interval|glob|sort|shuffle|tag|extend_list|str|int|float|bool|json_str"
_COMPUTED = re.compile(rf".*\$\{{|({FUNCTIONS})\(.*\)$", re.DOTALL)
"""Values that are interpolated, or made by a function of Hydra's."""
_UNPARSED = re.compile(rf"""['"]|{_COMPUTED.pattern}""", re.DOTALL)
"""Values that say themselves how they are to be read: those, and quoted ones."""
_parser = OverridesParser.create()
_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # several times faster; not every build of PyYAML has it


def keep_text(argument: str) -> str:
    """The argument `key=value` of a command line, its text quoted where Hydra would not read it as such.

    A name alone where a list of names is expected becomes a list of one.
    """
    key, equals, value = argument.partition("=")
    name = key.lstrip("+").rpartition(".")[2]
    if not equals or argument.startswith("-") or name not in TEXT_KEYS | LIST_KEYS:
        return argument
    return key + equals + ",".join(_list_or_one(part, name) for part in _split(value))


def _list_or_one(value: str, name: str) -> str:
    """A whole value, or one of those that a sweep goes through."""
    if value.startswith("[") and value.endswith("]"):
        return "[" + ",".join(_quoted(part.strip()) for part in _split(value[1:-1])) + "]"
    if value == "null" and name not in NAMES:
        return value
    alone = name in LIST_KEYS and value and value[0] != "[" and not _COMPUTED.match(value)
    return f"[{_quoted(value)}]" if alone else _quoted(value)


def _quoted(value: str) -> str:
    if not value or _UNPARSED.match(value) or value.startswith("["):
        return value
    try:
        as_it_is = isinstance(_parser.parse_override(f"key={value}").value(), str)
    except HydraException:
        as_it_is = False
    if as_it_is:
        return value
    return in_quotes(value)


def in_quotes(text: str) -> str:
    """Any text as a value that Hydra reads as just that."""
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)
    return "'" + re.sub(r"(\\+)$", r"\1\1", escaped) + "'"


def _split(text: str) -> Iterator[str]:
    """The parts between commas that stand in no bracket and no quotes."""
    depth, quote, start = 0, "", 0
    for index, letter in enumerate(text):
        if quote or (letter in "'\"" and index == start):
            quote = "" if letter == quote and text[index - 1] != "\\" else quote or letter
        elif letter in "[{(" or letter in ")}]":
            depth += 1 if letter in "[{(" else -1
        elif letter == "," and not depth and text[index - 1] != "\\":
            yield text[start:index]
            start = index + 1
    yield text[start:]


def quote_yaml(text: str) -> str:
    """A YAML document whose plain values of `TEXT_KEYS` are quoted, unless they are null; the text itself if broken."""
    try:
        document = yaml.compose(text, Loader=_YAML)
    except yaml.YAMLError:
        return text  # whoever loads it says what is wrong
    starts = {node.start_mark.index: node for node in _plain_texts(document)}
    for start, node in sorted(starts.items(), reverse=True):
        if text[start] not in "&!":  # an anchor or a tag
            quoted = node.value.replace("'", "''")
            text = f"{text[:start]}'{quoted}'{text[node.end_mark.index :]}"
    return text


def _plain_texts(node: yaml.Node | None, name: str = "", inside_list: bool = False) -> Iterator[yaml.ScalarNode]:
    """The values of `TEXT_KEYS` that are not quoted; null is one only within a list, where nothing else makes sense."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _plain_texts(value, str(key.value))
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _plain_texts(value, name, inside_list=True)
    elif isinstance(node, yaml.ScalarNode) and name in TEXT_KEYS and not node.style:
        yield from [node] if node.value and (inside_list or not node.tag.endswith(":null")) else []


def _load(file: Any) -> Any:
    """`OmegaConf.load`, through which Hydra reads every YAML, with text kept as text."""
    text = Path(file).read_text(encoding="utf-8") if isinstance(file, str | Path) else file.read()
    return deepcopy(_read(text))


@cache
def _read(text: str) -> Any:
    """What a document says; Hydra composes a command's configuration three times."""
    return _omegaconf_load(io.StringIO(quote_yaml(text)))


_omegaconf_load = OmegaConf.load
OmegaConf.load = staticmethod(_load)  # type: ignore[method-assign, assignment]


def split_words(text: str | None) -> list[str]:
    """'scratch, dent' as ['scratch', 'dent'].

    Commas separate, blanks around them do not count.
    """
    return [word.strip() for word in (text or "").split(",") if word.strip()]


OmegaConf.register_new_resolver("words", lambda text: ListConfig(split_words(text)), replace=True)
OmegaConf.register_new_resolver(
    "env_words", lambda variable: ListConfig(split_words(os.environ.get(variable))), replace=True
)
