"""Captions as GroundingDINO reads them: word pieces, which of them see each other, and phrases back from tokens."""

import logging
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.errors import ModelInputError

MAX_TOKENS = 256
VOCABULARY = "vocab.txt"
SPECIAL = ("[CLS]", "[SEP]", ".", "?")
"""Tokens that end a phrase and belong to no word."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Caption:
    """A caption of T tokens, on the CPU.

    `places` (T,) counts each token within its phrase, from 0; `phrases` (T, T) is True where tokens share a phrase;
    `words` (T,) is True for tokens of words, False for [CLS], [SEP], "." and "?".
    """

    text: str
    ids: tuple[int, ...]
    places: Tensor
    phrases: Tensor
    words: Tensor


def normalised(caption: str) -> str:
    """Lower case, no blanks around it, a full stop at its end: the form the model was trained on.

    Raises:
        ModelInputError: no letter and no digit in it.
    """
    if not isinstance(caption, str) or not any(letter.isalnum() for letter in caption):
        raise ModelInputError(
            f'expected a caption with at least one word, such as "defect on bottle", got {caption!r}; name what to '
            "look for"
        )
    text = caption.lower().strip()
    return text if text.endswith(".") else text + "."


class CaptionReader:
    """Word pieces of captions by a BERT vocabulary, and the phrases that tokens stand for."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self._special = torch.tensor(tokenizer.convert_tokens_to_ids(list(SPECIAL)))
        self._phrase = lru_cache(maxsize=4096)(self._decode)

    def __len__(self) -> int:
        """How many word pieces the vocabulary has."""
        return len(self.tokenizer)

    def read(self, text: str) -> Caption:
        """A normalised caption, cut to `MAX_TOKENS` tokens with a warning, as the model cuts it.

        A phrase is what lies between two special tokens, with the one that ends it; [CLS] and [SEP] stand alone.
        """
        ids = torch.tensor(self.tokenizer(text, verbose=False)["input_ids"])
        special = torch.isin(ids, self._special)
        phrase = special.cumsum(0) - special.long()
        first = torch.searchsorted(phrase, phrase)
        places = torch.arange(len(ids)) - first
        if len(ids) > MAX_TOKENS:
            log.warning("caption of %d tokens cut to %d: %.60s ...", len(ids), MAX_TOKENS, text)
        kept = slice(0, MAX_TOKENS)
        phrase = phrase[kept]
        return Caption(
            text, tuple(ids[kept].tolist()), places[kept], phrase[:, None] == phrase[None, :], ~special[kept]
        )

    def count(self, text: str) -> int:
        """Tokens of a normalised caption, without [CLS] and [SEP]."""
        return len(self.tokenizer(text, verbose=False, add_special_tokens=False)["input_ids"])

    def phrases(self, caption: Caption, chosen: Tensor) -> tuple[str, ...]:
        """What the chosen tokens (N, T) of each of N boxes spell, without full stops."""
        ids = torch.tensor(caption.ids)
        return tuple(self._phrase(tuple(ids[row].tolist())) for row in chosen.cpu())

    def _decode(self, ids: tuple[int, ...]) -> str:
        return str(self.tokenizer.decode(list(ids))).replace(".", "")


def join(reader: CaptionReader, texts: Sequence[str]) -> list[tuple[str, list[slice]]]:
    """Put normalised captions one after the other into as few joined captions as hold them.

    Returns each joined caption with the tokens that each of its captions occupies in it, in order.
    """
    joined: list[tuple[str, list[slice]]] = []
    for text in texts:
        length = reader.count(text)
        end = joined[-1][1][-1].stop if joined else MAX_TOKENS
        if end + length + 1 > MAX_TOKENS:  # and [SEP]
            joined.append((text, [slice(1, 1 + length)]))
        else:
            joined[-1] = (f"{joined[-1][0]} {text}", [*joined[-1][1], slice(end, end + length)])
    return joined


def load_reader(path: Path) -> CaptionReader:
    """The reader of a vocabulary: a file with one word piece per line, or a folder with such a `vocab.txt`.

    Raises:
        ModelInputError: no such file, or one without BERT's special tokens.
    """
    file = path / VOCABULARY if path.is_dir() else path
    if not file.is_file():
        raise ModelInputError(
            f"expected the vocabulary of BERT-base-uncased at {file}, found no file; put the {VOCABULARY} of "
            "bert-base-uncased (30,522 lines) there, or give the folder that holds it"
        )
    pieces = set(file.read_text(encoding="utf-8").split("\n"))
    if missing := [token for token in (*SPECIAL, "[UNK]", "[PAD]") if token not in pieces]:
        raise ModelInputError(
            f"expected {file} to be a BERT vocabulary, one word piece per line, but it lacks {', '.join(missing)}; "
            f"take the {VOCABULARY} of bert-base-uncased"
        )
    from transformers import BertTokenizerFast  # slow to import, and only the real generator needs it

    return CaptionReader(BertTokenizerFast(vocab_file=str(file), do_lower_case=True))


def spelling_reader(words: Iterable[str] = ()) -> CaptionReader:
    """A reader that needs no file: it knows the given words and spells all others letter by letter.

    For random weights only; trained weights need the vocabulary that they were trained with.
    """
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *".?,!;:'\"()-_/&+%#", *letters]
    pieces += [f"##{letter}" for letter in letters]
    pieces += sorted(set(words) - set(pieces))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, VOCABULARY).write_text("\n".join(pieces) + "\n", encoding="utf-8")
        return load_reader(Path(folder))
